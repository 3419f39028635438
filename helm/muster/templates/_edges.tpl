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
{{- $ports = append $ports (include "muster.port" . | int) -}}
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

{{/* The port that a URL leads to: what it says, or that of its scheme. Takes the URL. */}}
{{- define "muster.port" -}}
{{- $url := urlParse . -}}
{{- $known := dict "http" "80" "https" "443" "wss" "443" "tls" "4222" -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (get $known $url.scheme) -}}
{{- end -}}

{{/*
Where join tokens lead, as a rule of egress: the addresses of agentAccess and externalNats, the port of NATS, and that of HTTPS for tokens
of another release. Takes the root.
*/}}
{{- define "muster.agentEdge" -}}
{{- $ports := list 4222 443 -}}
{{- range concat .Values.agentAccess.urls .Values.externalNats.urls -}}
{{- $ports = append $ports (include "muster.port" . | int) -}}
{{- end -}}
- ports:
    {{- range uniq $ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end -}}
