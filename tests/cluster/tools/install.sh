#!/usr/bin/env bash
# Builds the programs that `make test-cluster` needs into $MUSTER_TOOLS_DIR/bin (default: .tools in the repository).
# Versions stand in the go.mod of each folder here and nowhere else: one module for each family, so that what one of them
# requires does not bend another. Go's build cache makes a second run take seconds; a tool whose module is as it was when
# it was built costs nothing. Arguments name folders; without any, all of them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${MUSTER_TOOLS_DIR:-$here/../../../.tools}
# The Go that is there, or none: fetching another one is not for a test to decide.
export GOTOOLCHAIN=local CGO_ENABLED=0 GOWORK=off

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The version that a module requires of another one.
required() { (cd "$here/$1" && go list -m -f '{{.Version}}' "$2"); }

# Builds packages of a module, named after the last part of their path unless a name is given as name=package.
build() { # folder, linker flags, packages...
  local folder=$1 flags=$2 package name stamp made=0
  shift 2
  stamp=$(cd "$here/$folder" && find . -name 'go.*' -o -name '*.go' | sort | xargs cat | sha256sum | cut -d ' ' -f 1)
  for package in "$@"; do
    name=${package%%=*}
    package=${package#*=}
    name=${name##*/}
    if [ -x "$tools/bin/$name" ] && [ "$(cat "$tools/stamps/$name" 2>/dev/null)" = "$stamp" ]; then continue; fi
    [ "$made" = 1 ] || say "building $folder: minutes for the first time, seconds with Go's cache"
    made=1
    (cd "$here/$folder" && go build -mod=readonly -trimpath -ldflags "-s -w $flags" -o "$tools/bin/$name" "$package") \
      || fail "go could not build $name: see above"
    echo "$stamp" >"$tools/stamps/$name"
    say "$name is in $tools/bin"
  done
}

# Takes files out of a module, by their path in it, into a folder.
take() { # folder, module, to, paths...
  local folder=$1 module=$2 to=$3 dir path
  shift 3
  dir=$(cd "$here/$folder" && go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
  [ -n "$dir" ] || fail "go could not fetch $module"
  mkdir -p "$to"
  for path in "$@"; do install -m 644 "$dir/$path" "$to/"; done
}

# Prometheus' tool for rules: what is on PATH, else out of Debian's package, which is not installed for it.
take_promtool() {
  local work found
  [ -x "$tools/bin/promtool" ] && return
  if found=$(type -P promtool); then ln -sf "$found" "$tools/bin/promtool"; return; fi
  command -v apt-get >/dev/null || fail "promtool is missing: install Prometheus, or put promtool on PATH"
  work=$(mktemp -d "$tools/install.XXXXXX")
  (cd "$work" && apt-get download prometheus >/dev/null && dpkg-deb -x prometheus_*.deb .) \
    || { rm -rf "$work"; fail "promtool could not be taken out of the package prometheus: apt-get update first?"; }
  mv "$work/usr/bin/promtool" "$tools/bin/promtool"
  rm -rf "$work"
  say "promtool is in $tools/bin"
}

command -v go >/dev/null || fail "go is missing; it builds the tools of the cluster tests: install Go 1.26 or newer"
mkdir -p "$tools/bin" "$tools/stamps"
tools=$(cd "$tools" && pwd)
for folder in "${@:-all}"; do
  case $folder in
    kubeconform | all) build kubeconform '' github.com/yannh/kubeconform/cmd/kubeconform ;;&
    helm | all) build helm "-X helm.sh/helm/v4/internal/version.version=$(required helm helm.sh/helm/v4)" helm.sh/helm/v4/cmd/helm ;;&
    helm3 | all) build helm3 '' helm3=helm.sh/helm/v3/cmd/helm ;;&
    etcd | all) build etcd '' etcd=go.etcd.io/etcd/server/v3 ;;&
    registry | all) build registry '' github.com/google/go-containerregistry/cmd/registry ;;&
    caddy | all) build caddy '' github.com/caddyserver/caddy/v2/cmd/caddy ;;&
    cosign | all) build cosign '' github.com/sigstore/cosign/v3/cmd/cosign ;;&
    versitygw | all) build versitygw '' github.com/versity/versitygw/cmd/versitygw ;;&
    otelcol | all) build otelcol '' otelcol=. ;;&
    cert-manager | all)
      build cert-manager '' cert-manager=.
      take cert-manager github.com/cert-manager/cert-manager "$tools/share/cert-manager" \
        deploy/crds/cert-manager.io_{certificaterequests,clusterissuers,issuers}.yaml
      ;;&
    promtool | all) take_promtool ;;&
    nats-exporter | all) build nats-exporter '' github.com/nats-io/prometheus-nats-exporter ;;&
    kwok | all) build kwok "-X sigs.k8s.io/kwok/pkg/consts.Version=$(required kwok sigs.k8s.io/kwok)" sigs.k8s.io/kwok/cmd/kwok ;;&
    k8s | all)
      version=$(required k8s k8s.io/kubernetes)
      at=k8s.io/component-base/version
      IFS=. read -r major minor _ <<<"${version#v}"
      build k8s "-X $at.gitVersion=$version -X $at.gitMajor=$major -X $at.gitMinor=$minor" \
        k8s.io/kubernetes/cmd/kube{-apiserver,-controller-manager,-scheduler,ctl}
      ;;&
    schemas | all)
      take k8s k8s.io/kubernetes "$tools/share" api/openapi-spec/swagger.json
      take crds github.com/cert-manager/cert-manager "$tools/share/crds" deploy/crds/cert-manager.io_certificates.yaml
      take crds sigs.k8s.io/gateway-api "$tools/share/crds" \
        config/crd/standard/gateway.networking.k8s.io_{grpcroutes,tlsroutes,backendtlspolicies}.yaml
      take crds github.com/prometheus-operator/prometheus-operator "$tools/share/crds" \
        example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml
      ;;&
    gitops | all)
      take crds github.com/argoproj/argo-cd/v3 "$tools/share/gitops" manifests/crds/application-crd.yaml
      take crds github.com/fluxcd/source-controller "$tools/share/gitops" \
        config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml
      [ -e "$tools/share/gitops/helm.toolkit.fluxcd.io_helmreleases.yaml" ] || (cd "$here/gitops" && go tool controller-gen \
        crd paths=github.com/fluxcd/helm-controller/api/v2 output:crd:dir="$tools/share/gitops")
      ;;&
    kubeconform | helm | helm3 | etcd | kwok | nats-exporter | registry | caddy | cosign | versitygw | otelcol | cert-manager | promtool | k8s | schemas | gitops | all) ;;
    *) fail "no folder named $folder" ;;
  esac
done
