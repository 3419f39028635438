{{/* The way to NATS, as a rule of egress; takes the root. */}}
{{- define "muster.natsEdge" -}}
{{- if .Values.nats.enabled -}}
- to:
    - podSelector:
        matchLabels: {{- include "muster.selector" (dict "root" . "name" "nats") | nindent 10 }}
  ports:
    - {port: 4222, protocol: TCP}
{{- else -}}
{{- $ports := list -}}
{{- range .Values.externalNats.urls -}}
{{- $ports = append $ports (regexFind "[0-9]+$" . | default "4222" | int) -}}
{{- end -}}
- ports:
    {{- range uniq $ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end -}}
{{- end -}}

{{/* The way to DNS, likewise. */}}
{{- define "muster.dnsEdge" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}
