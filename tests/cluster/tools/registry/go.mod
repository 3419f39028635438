// A registry for OCI artifacts that keeps everything in memory: what tests push a release to.
module muster.dev/tools/registry

go 1.26.0

tool github.com/google/go-containerregistry/cmd/registry

require github.com/google/go-containerregistry v0.22.1 // indirect
