// Definitions of resources that the chart makes where they are known. Nothing of these modules is built.
module muster.dev/tools/crds

go 1.26.0

require (
	github.com/argoproj/argo-cd/v3 v3.1.0
	github.com/cert-manager/cert-manager v1.21.2
	github.com/fluxcd/source-controller v1.8.5
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.3
)
