{{/*
Secrets that the bootstrap fills, as a list of names; takes the root. They are rendered without data, so that Helm and GitOps tools
have nothing to say about what is in them, and stay when the release goes unless global.keepOnUninstall is false.
*/}}
{{- define "muster.bootstrapSecrets" -}}
{{- $full := include "muster.fullname" . }}
- {{ $full }}-root
- {{ $full }}-nats-operator
{{- range list "policy" "content" "presence" "identity" "backup" }}
- {{ $full }}-{{ . }}-keys
{{- end }}
{{- if include "muster.makesOperatorToken" . }}
- {{ include "muster.operatorTokenSecret" . }}
{{- end }}
{{- if eq .Values.tls.source "bootstrap" }}
- {{ $full }}-ca
- {{ $full }}-nats-tls
- {{ $full }}-api-tls
{{- end }}
{{- end -}}

{{/* Whether the bootstrap makes the operator's API token: "true" or nothing. Identity's keys must be those that it made. Takes the root. */}}
{{- define "muster.makesOperatorToken" -}}
{{- $own := and .Values.bootstrap.enabled (not .Values.operator.tokenSecret) (not .Values.identity.existingSecret) -}}
{{- if and .Values.operator.enabled $own }}true{{ end -}}
{{- end -}}

{{/* Secret with the operator's API token; takes the root. */}}
{{- define "muster.operatorTokenSecret" -}}
{{- .Values.operator.tokenSecret | default (printf "%s-operator-token" (include "muster.fullname" .)) -}}
{{- end -}}

{{/*
Secret with the CA of NATS that the bootstrap mounts, if it speaks to NATS and did not make that CA: its Pod would wait for what it
fills itself. Takes the root.
*/}}
{{- define "muster.bootstrapNatsCa" -}}
{{- if include "muster.makesOperatorToken" . -}}
{{- $secret := (include "muster.nats" . | fromYaml).caSecret -}}
{{- $made := printf "%s-nats-tls" (include "muster.fullname" .) -}}
{{- if not (and (eq .Values.tls.source "bootstrap") (eq $secret $made)) }}{{ $secret }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Names in the certificate of NATS servers, as a list; takes the root. */}}
{{- define "muster.natsNames" -}}
{{- $full := include "muster.fullname" . -}}
{{- $domain := printf "%s.svc.%s" .Release.Namespace .Values.global.clusterDomain -}}
{{- $names := list (printf "%s-nats.%s" $full $domain) (printf "%s-nats.%s.svc" $full .Release.Namespace) (printf "%s-nats" $full) -}}
{{- range $at := until (.Values.nats.replicas | int) -}}
{{- $names = append $names (printf "%s-nats-%d.%s-nats-nodes.%s" $full $at $full $domain) -}}
{{- end -}}
{{- range .Values.agentAccess.urls -}}
{{- $names = append $names (regexReplaceAll "^[a-z]+://|:[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]") -}}
{{- end -}}
{{- concat $names .Values.agentAccess.tlsRoute.hostnames .Values.tls.nats.extraNames | uniq | toJson -}}
{{- end -}}

{{/* Names in the certificate of the services, as a list; takes the root. */}}
{{- define "muster.apiNames" -}}
{{- $names := list "localhost" -}}
{{- range list "policy" "content" "presence" "identity" -}}
{{- $name := printf "%s-%s" (include "muster.fullname" $) . -}}
{{- $names = concat $names (list $name (printf "%s.%s.svc" $name $.Release.Namespace) (printf "%s.%s.svc.%s" $name $.Release.Namespace $.Values.global.clusterDomain)) -}}
{{- end -}}
{{- concat $names .Values.tls.api.extraNames .Values.api.grpcRoute.hostnames (compact (list .Values.api.ingress.host)) | uniq | toJson -}}
{{- end -}}

{{/* The Pod of the bootstrap; takes root, name, block. */}}
{{- define "muster.bootstrapPod" -}}
metadata:
  labels: {{- merge (include "muster.podLabels" . | fromYaml) (deepCopy .block.podLabels) | toYaml | nindent 4 }}
  {{- with .block.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "muster.name" . }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  restartPolicy: OnFailure
  securityContext: {{- toYaml .block.podSecurityContext | nindent 4 }}
  {{- with include "muster.placement" (dict "root" .root "name" .name "block" (omit .block "topologySpread")) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: bootstrap
      image: {{ include "muster.image" (dict "root" .root "image" .block.image) }}
      imagePullPolicy: {{ .block.image.pullPolicy }}
      command: [/musterd]
      args: [bootstrap]
      {{- $own := dict
        "MUSTER_LOG" (dict "value" .root.Values.global.logLevel)
        "MUSTER_LOG_FORMAT" (dict "value" .root.Values.global.logFormat)
        "MUSTER_FLEET" (dict "value" .root.Values.global.fleet)
        "MUSTER_BOOTSTRAP_PREFIX" (dict "value" (include "muster.fullname" .root))
        "MUSTER_BOOTSTRAP_NAMESPACE" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.namespace"))) }}
      {{- if eq .root.Values.tls.source "bootstrap" }}
      {{- $_ := set $own "MUSTER_BOOTSTRAP_NATS_NAMES" (dict "value" (join "," (include "muster.natsNames" .root | fromJsonArray))) }}
      {{- $_ := set $own "MUSTER_BOOTSTRAP_API_NAMES" (dict "value" (join "," (include "muster.apiNames" .root | fromJsonArray))) }}
      {{- if .root.Values.nats.enabled }}
      {{- $_ := set $own "MUSTER_BOOTSTRAP_NATS_STATEFULSET" (dict "value" (printf "%s-nats" (include "muster.fullname" .root))) }}
      {{- end }}
      {{- end }}
      {{- $ca := include "muster.bootstrapNatsCa" .root }}
      {{- if include "muster.makesOperatorToken" .root }}
      {{- $nats := include "muster.nats" .root | fromYaml }}
      {{- $_ := set $own "MUSTER_BOOTSTRAP_OPERATOR_TOKEN" (dict "value" "true") }}
      {{- $_ := set $own "MUSTER_NATS_URL" (dict "value" (join "," $nats.urls)) }}
      {{- if $nats.tlsFirst }}
      {{- $_ := set $own "MUSTER_NATS_TLS_FIRST" (dict "value" "true") }}
      {{- end }}
      {{- if $ca }}
      {{- $_ := set $own "MUSTER_NATS_CA_FILE" (dict "value" "/etc/muster/nats-ca/ca.crt") }}
      {{- end }}
      {{- end }}
      env: {{- include "muster.env" (dict "env" $own "extra" (list .root.Values.global.extraEnv .block.extraEnv)) | nindent 8 }}
      resources: {{- toYaml .block.resources | nindent 8 }}
      securityContext: {{- toYaml .block.securityContext | nindent 8 }}
      volumeMounts:
        {{- if $ca }}
        - {name: nats-ca, mountPath: /etc/muster/nats-ca, readOnly: true}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
  volumes:
    {{- with $ca }}
    - name: nats-ca
      secret:
        secretName: {{ . }}
        defaultMode: 288 # 0440
        items:
          - {key: ca.crt, path: ca.crt}
    {{- end }}
    - name: tmp
      emptyDir:
        sizeLimit: 16Mi
{{- end -}}
