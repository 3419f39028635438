{{/*
Environment that leads telemetry to a collector, as a map of entries; empty without one. Takes the root. What Kubernetes knows of the Pod
becomes attributes of its process: POD_NAMESPACE and the like come first in the order of names, which references need.
*/}}
{{- define "muster.otelEnv" -}}
{{- $otel := .Values.global.otel -}}
{{- $env := dict -}}
{{- if $otel.endpoint -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" (dict "value" $otel.endpoint) -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_PROTOCOL" (dict "value" ($otel.protocol | default "grpc")) -}}
{{- if $otel.caSecret -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_CERTIFICATE" (dict "value" "/etc/muster/otel-ca/ca.crt") -}}
{{- end -}}
{{- $attributes := list "k8s.namespace.name=$(MUSTER_POD_NAMESPACE)" "k8s.pod.name=$(MUSTER_POD_NAME)" "k8s.node.name=$(MUSTER_POD_NODE)" -}}
{{- range $name, $value := $otel.resourceAttributes -}}
{{- $attributes = append $attributes (printf "%s=%s" $name $value) -}}
{{- end -}}
{{- $_ := set $env "OTEL_RESOURCE_ATTRIBUTES" (dict "value" (join "," $attributes)) -}}
{{- $_ := set $env "MUSTER_POD_NAMESPACE" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.namespace"))) -}}
{{- $_ := set $env "MUSTER_POD_NAME" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) -}}
{{- $_ := set $env "MUSTER_POD_NODE" (dict "valueFrom" (dict "fieldRef" (dict "fieldPath" "spec.nodeName"))) -}}
{{- with $otel.sampler -}}
{{- $_ := set $env "OTEL_TRACES_SAMPLER" (dict "value" .) -}}
{{- end -}}
{{- with $otel.samplerArgument -}}
{{- $_ := set $env "OTEL_TRACES_SAMPLER_ARG" (dict "value" (toString .)) -}}
{{- end -}}
{{- end -}}
{{- $env | toYaml -}}
{{- end -}}

{{/* Where the CA of the collector is mounted, and its volume; nothing without one. Both take the root. */}}
{{- define "muster.otelMount" -}}
{{- with .Values.global.otel -}}
{{- if and .endpoint .caSecret -}}
- {name: otel-ca, mountPath: /etc/muster/otel-ca, readOnly: true}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "muster.otelVolume" -}}
{{- with .Values.global.otel -}}
{{- if and .endpoint .caSecret -}}
- name: otel-ca
  secret:
    secretName: {{ .caSecret }}
    defaultMode: 288 # 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The way to the collector, as a rule of egress; nothing without one. Takes the root. */}}
{{- define "muster.otelEdge" -}}
{{- with .Values.global.otel.endpoint -}}
- ports:
    - {port: {{ include "muster.port" . }}, protocol: TCP}
{{- end -}}
{{- end -}}
