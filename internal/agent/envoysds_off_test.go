//go:build !envoysds

package agent

import (
	"strings"
	"testing"
)

// A build without the kind says which build has it.
func TestEnvoySDSMissing(t *testing.T) {
	_, err := parseConfig([]byte("service: {addresses: [unix:/s]}\nname: host\ntargets: [{kind: envoy-sds, socket: /run/s}]\n"), "/")
	if err == nil || !strings.Contains(err.Error(), "target envoy-sds: kind: this sessapi was built without envoy-sds") {
		t.Errorf("%v", err)
	}
}
