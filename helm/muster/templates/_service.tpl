{{/* Environment of a service: takes root, name, block. */}}
{{- define "muster.serviceEnv" -}}
{{- $values := .root.Values -}}
{{- $nats := include "muster.nats" .root | fromYaml -}}
{{- $env := dict
  "MUSTER_LISTEN" (dict "value" (printf "%s:7400" $values.global.listenHost))
  "MUSTER_LOG" (dict "value" $values.global.logLevel)
  "MUSTER_LOG_FORMAT" (dict "value" $values.global.logFormat)
  "MUSTER_FLEET" (dict "value" $values.global.fleet)
  "MUSTER_NATS_URL" (dict "value" (join "," $nats.urls))
  "MUSTER_NATS_CREDS" (dict "value" "/etc/muster/keys")
  "MUSTER_STREAM_REPLICAS" (dict "value" (toString $nats.streamReplicas))
  "MUSTER_TLS_CERT" (dict "value" "/etc/muster/tls/tls.crt")
  "MUSTER_TLS_KEY" (dict "value" "/etc/muster/tls/tls.key")
-}}
{{- if $nats.caSecret -}}
{{- $_ := set $env "MUSTER_NATS_CA_FILE" (dict "value" "/etc/muster/nats-ca/ca.crt") -}}
{{- end -}}
{{- if $nats.tlsFirst -}}
{{- $_ := set $env "MUSTER_NATS_TLS_FIRST" (dict "value" "true") -}}
{{- end -}}
{{- if has .name (list "policy" "identity") -}}
{{- $_ := set $env "MUSTER_DIRECTOR_KEY" (dict "value" "/etc/muster/keys/director.key") -}}
{{- if eq .name "identity" -}}
{{- $_ := set $env "MUSTER_ROOT_KEY" (dict "value" "/etc/muster/keys/root.key") -}}
{{- $public := dict "secretKeyRef" (dict "name" (include "muster.keySecret" .) "key" "content.pub") -}}
{{- $_ := set $env "MUSTER_CONTENT_PUBLIC_KEY" (dict "valueFrom" $public) -}}
{{- end -}}
{{- with $values.agentAccess.urls -}}
{{- $_ := set $env "MUSTER_AGENT_SERVERS" (dict "value" (join "," .)) -}}
{{- end -}}
{{- with $values.agentAccess.caSecret -}}
{{- $_ := set $env "MUSTER_AGENT_CA_FILE" (dict "value" "/etc/muster/agent-ca/ca.crt") -}}
{{- end -}}
{{- end -}}
{{- if eq .name "content" -}}
{{- $_ := set $env "MUSTER_CONTENT_KEY" (dict "value" "/etc/muster/keys/content.key") -}}
{{- $_ := set $env "MUSTER_WORK_DIR" (dict "value" "/var/lib/muster") -}}
{{- end -}}
{{- $env = merge $env (include "muster.otelEnv" .root | fromYaml) -}}
{{- range $flag, $value := .block.options -}}
{{- $text := ternary (int64 $value | toString) (toString $value) (kindIs "float64" $value) -}}
{{- $_ := set $env (printf "MUSTER_%s" ($flag | upper | replace "-" "_")) (dict "value" $text) -}}
{{- end -}}
{{- include "muster.env" (dict "env" $env "extra" (list $values.global.extraEnv .block.extraEnv)) -}}
{{- end -}}

{{/* Where services are, for their clients: takes root and services, names of variables by service. */}}
{{- define "muster.serverEnv" -}}
{{- $domain := printf "%s.svc.%s" .root.Release.Namespace .root.Values.global.clusterDomain -}}
{{- range $service, $variable := .services }}
{{- $port := (include "muster.block" (dict "root" $.root "name" $service) | fromYaml).service.port | int }}
{{ $variable }}: {value: "https://{{ include "muster.name" (dict "root" $.root "name" $service) }}.{{ $domain }}:{{ $port }}"}
{{- end }}
{{- end -}}

{{/* Whether `helm test` has a Pod: "true" or nothing; takes the root. */}}
{{- define "muster.selftest" -}}
{{- $values := .Values -}}
{{- if and $values.selftest.enabled $values.policy.enabled $values.presence.enabled $values.identity.enabled }}true{{ end -}}
{{- end -}}

{{/* Volumes of a service: takes root, name, block. Files of a Secret belong to root and are read through fsGroup. */}}
{{- define "muster.serviceVolumes" -}}
{{- $nats := include "muster.nats" .root | fromYaml -}}
- name: keys
  secret:
    secretName: {{ include "muster.keySecret" . }}
    defaultMode: 288 # 0440
    items:
      {{- range include "muster.keyNames" . | fromYamlArray }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
- name: tls
  secret:
    secretName: {{ include "muster.tlsSecret" (dict "root" .root "name" "api") }}
    defaultMode: 288 # 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- with $nats.caSecret }}
- name: nats-ca
  secret:
    secretName: {{ . }}
    defaultMode: 288 # 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- if and .root.Values.agentAccess.caSecret (has .name (list "policy" "identity")) }}
- name: agent-ca
  secret:
    secretName: {{ .root.Values.agentAccess.caSecret }}
    defaultMode: 288 # 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- with include "muster.otelVolume" .root }}
{{ . }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 16Mi
{{- if eq .name "content" }}
- name: work
  emptyDir:
    sizeLimit: {{ .block.workDir.sizeLimit }}
{{- end }}
{{- end -}}

{{/* What a service finds in its Secret; takes name. A Pod waits until all of it is there. */}}
{{- define "muster.keyNames" -}}
- accounts.json
- fleet.creds
{{- if has .name (list "presence" "identity") }}
- agents.creds
{{- end }}
{{- if eq .name "identity" }}
- system.creds
- agent-signing.nk
- account-signing.nk
- root.key
{{- end }}
{{- if has .name (list "policy" "identity") }}
- join-signing.nk
- director.key
{{- end }}
{{- if eq .name "content" }}
- content.key
{{- end }}
{{- end -}}
