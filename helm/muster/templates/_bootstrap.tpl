{{/*
Secrets that the bootstrap fills, as a list of names; takes the root. They are rendered without data, so that Helm and GitOps tools
have nothing to say about what is in them, and stay when the release goes.
*/}}
{{- define "muster.bootstrapSecrets" -}}
{{- $full := include "muster.fullname" . }}
- {{ $full }}-root
- {{ $full }}-nats-operator
{{- range list "policy" "content" "presence" "identity" "backup" }}
- {{ $full }}-{{ . }}-keys
{{- end }}
{{- if eq .Values.tls.source "bootstrap" }}
- {{ $full }}-ca
- {{ $full }}-nats-tls
- {{ $full }}-api-tls
{{- end }}
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
  labels: {{- include "muster.podLabels" . | nindent 4 }}
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
      env: {{- include "muster.env" (dict "env" $own "extra" (list .root.Values.global.extraEnv)) | nindent 8 }}
      resources: {{- toYaml .block.resources | nindent 8 }}
      securityContext: {{- toYaml .block.securityContext | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 16Mi
{{- end -}}
