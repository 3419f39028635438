{{/* Names and labels. All helpers take (dict "root" $ "name" NAME) unless they say otherwise. */}}

{{/* Name of everything; takes the root. Short enough that what follows fits a label. */}}
{{- define "muster.fullname" -}}
{{- $name := .Values.global.fullnameOverride | default (ternary .Release.Name (printf "%s-muster" .Release.Name) (contains "muster" .Release.Name)) -}}
{{- $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of a component. */}}
{{- define "muster.name" -}}
{{ include "muster.fullname" .root }}-{{ .name }}
{{- end -}}

{{/* Labels by which a component's Pods are found. They never change. */}}
{{- define "muster.selector" -}}
app.kubernetes.io/name: muster
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{/* Labels of an object; further ones may be given as `labels`. */}}
{{- define "muster.labels" -}}
{{- $own := include "muster.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" (.root.Chart.AppVersion | toString) -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "muster" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- merge $own (deepCopy (.labels | default dict)) (deepCopy .root.Values.global.labels) | toYaml -}}
{{- end -}}

{{/* Labels of Pods: no version among them, which would start all of them again for nothing. */}}
{{- define "muster.podLabels" -}}
{{- merge (include "muster.selector" . | fromYaml) (deepCopy .root.Values.global.labels) | toYaml -}}
{{- end -}}

{{/* Metadata of an object of a component; `annotations` and `suffix` may be given, or another name as `called`. */}}
{{- define "muster.metadata" -}}
name: {{ .called | default (printf "%s%s" (include "muster.name" .) (.suffix | default "")) }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "muster.labels" . | nindent 2 }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Name of the ServiceAccount; takes `block` as well. */}}
{{- define "muster.serviceAccountName" -}}
{{- .block.serviceAccount.name | default (ternary (include "muster.name" .) "default" .block.serviceAccount.create) -}}
{{- end -}}

{{/* An image; takes root and image. */}}
{{- define "muster.image" -}}
{{- $registry := .root.Values.global.imageRegistry | default .image.registry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Secret with the keys of a service. */}}
{{- define "muster.keySecret" -}}
{{- $own := get (get .root.Values .name) "existingSecret" | default "" -}}
{{- $own | default (printf "%s-keys" (include "muster.name" .)) -}}
{{- end -}}

{{/* Secret with a certificate: takes root and name, nats or api. */}}
{{- define "muster.tlsSecret" -}}
{{- $given := ternary .root.Values.nats.tlsSecret .root.Values.tls.api.existingSecret (eq .name "nats") -}}
{{- $given | default (printf "%s-%s-tls" (include "muster.fullname" .root) .name) -}}
{{- end -}}

{{/*
Annotations of what holds data: Helm leaves it where it is, unless somebody said otherwise. Values that do not say, as an upgrade with
--reuse-values may have them, keep it. Takes the root.
*/}}
{{- define "muster.kept" -}}
{{- if ne (toString .Values.global.keepOnUninstall) "false" -}}
helm.sh/resource-policy: keep
{{- end -}}
{{- end -}}
