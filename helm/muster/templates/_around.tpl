{{/* What stands around the Pods of a component: ServiceAccount and PodDisruptionBudget. Takes root, name, block. */}}
{{- define "muster.around" -}}
{{- if .block.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{- include "muster.metadata" (merge (dict "annotations" .block.serviceAccount.annotations "called" (include "muster.serviceAccountName" .)) (omit . "annotations")) | nindent 2 }}
automountServiceAccountToken: false
{{- end }}
{{- if and .block.pdb .block.pdb.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "muster.metadata" (omit . "annotations") | nindent 2 }}
spec:
  maxUnavailable: {{ .block.pdb.maxUnavailable | int }}
  # A Pod that is not ready helps nobody; it must not keep a node from being drained.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "muster.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
