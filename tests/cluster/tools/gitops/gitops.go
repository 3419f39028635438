// Package gitops holds what the definitions of Flux are made from.
package gitops

import (
	_ "github.com/fluxcd/helm-controller/api/v2"
)
