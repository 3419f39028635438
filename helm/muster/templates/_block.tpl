{{/*
A component's block laid over global.defaults: maps are merged, all else is replaced, also by what is empty. Takes root and
name. (mergeOverwrite would keep a default where the block says false or 0.)
*/}}
{{- define "muster.block" -}}
{{- include "muster.overlay" (dict "below" .root.Values.global.defaults "above" (get .root.Values .name)) -}}
{{- end -}}

{{- define "muster.overlay" -}}
{{- $laid := deepCopy .below -}}
{{- range $key, $value := .above -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $laid $key)) -}}
{{- $_ := set $laid $key (include "muster.overlay" (dict "below" (get $laid $key) "above" $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $laid $key $value -}}
{{- end -}}
{{- end -}}
{{- $laid | toYaml -}}
{{- end -}}

{{/*
Environment: `env` maps names to entries, `extra` is a list of lists of entries. Of those with the same name the last one wins, so
that no name comes twice: server-side apply refuses that.
*/}}
{{- define "muster.env" -}}
{{- $further := dict -}}
{{- range $list := .extra -}}
{{- range $list -}}
{{- $_ := set $further .name . -}}
{{- end -}}
{{- end -}}
{{- range $name := keys .env | sortAlpha -}}
{{- if not (hasKey $further $name) }}
- {{ merge (dict "name" $name) (get $.env $name) | toYaml | nindent 2 | trim }}
{{- end -}}
{{- end -}}
{{- range $name := keys $further | sortAlpha }}
- {{ get $further $name | toYaml | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{/* What Pods of a component have in common: where they run and how they are spread. Takes root, name, block. */}}
{{- define "muster.placement" -}}
{{- with .block.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .block.topologySpread }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ .topologyKey }}
    maxSkew: {{ .maxSkew | int64 }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "muster.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A size such as 512Mi or 1Gi in MiB; takes the text. */}}
{{- define "muster.mebibytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- if eq $unit "Ti" -}}{{ mul $number 1048576 }}
{{- else if eq $unit "Gi" -}}{{ mul $number 1024 }}
{{- else if eq $unit "Mi" -}}{{ $number }}
{{- else if eq $unit "G" -}}{{ div (mul $number 1000000000) 1048576 }}
{{- else if eq $unit "M" -}}{{ div (mul $number 1000000) 1048576 }}
{{- else if eq $unit "Ki" -}}{{ div $number 1024 }}
{{- else -}}{{ div $number 1048576 }}
{{- end -}}
{{- end -}}

{{/* NATS as a service sees it: urls (a list), tlsFirst, caSecret, replicas of streams. Takes the root of the chart muster. */}}
{{- define "muster.nats" -}}
{{- if .Values.nats.enabled -}}
urls: ["tls://{{ include "muster.fullname" . }}-nats.{{ .Release.Namespace }}.svc.{{ .Values.global.clusterDomain }}:4222"]
tlsFirst: true
caSecret: {{ include "muster.tlsSecret" (dict "root" . "name" "nats") }}
streamReplicas: {{ ternary 3 1 (ge (.Values.nats.replicas | int) 3) }}
{{- else -}}
urls: {{ .Values.externalNats.urls | toJson }}
tlsFirst: {{ .Values.externalNats.tlsFirst }}
caSecret: {{ .Values.externalNats.tlsSecret | quote }}
streamReplicas: {{ .Values.externalNats.streamReplicas | int }}
{{- end -}}
{{- end -}}

{{/* The services that run, as a list; takes the root. */}}
{{- define "muster.services" -}}
{{- range list "policy" "content" "presence" "identity" }}
{{- if (get $.Values .).enabled }}
- {{ . }}
{{- end }}
{{- end }}
{{- end -}}
