{{/* The way between servers; takes it (root and name) and side (from or to). */}}
{{- define "nats.clusterEdge" -}}
- {{ .side }}:
    - podSelector:
        matchLabels: {{- include "muster.selector" .it | nindent 10 }}
  ports:
    - {port: 6222, protocol: TCP}
{{- end -}}

{{/* Secret with the certificate. */}}
{{- define "nats.tlsSecret" -}}
{{- .Values.tlsSecret | default (printf "%s-nats-tls" (include "muster.fullname" .)) -}}
{{- end -}}

{{/* The lame duck and a minute, in seconds. */}}
{{- define "nats.graceSeconds" -}}
{{- $text := .Values.config.lameDuckDuration -}}
{{- $number := regexFind "^[0-9]+" $text | int -}}
{{- add 60 (mul $number (ternary 60 1 (hasSuffix "m" $text))) -}}
{{- end -}}
