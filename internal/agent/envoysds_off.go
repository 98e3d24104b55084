//go:build !envoysds

package agent

// envoySDS is Envoy at the agent's socket. The libraries for it would add 6 MB to the
// binary.
var envoySDS = kind{
	check: func(_ *Target, fail failure) error {
		return fail("kind", "this sessapi was built without envoy-sds; use one that was built with "+
			"make build TAGS=envoysds, or the kind envoy, which writes a file")
	},
}
