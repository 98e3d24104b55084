package handlers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/audit"
	"github.com/sessapi/sessapi/internal/keys"
)

// storeFunc is an empty [keys.Store].
type storeFunc func() error

func (storeFunc) Load(context.Context) ([]byte, error) { return nil, nil }

func (save storeFunc) Save(context.Context, []byte) error { return save() }

// A change that could not be stored is withdrawn in the log, even if its sender is no
// longer permitted to make it.
func TestPermissionEndsWhileStoring(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	trusted, stored := true, error(nil)
	ring, err := keys.OpenRing(time.Now, keys.Lifecycle{}, storeFunc(func() error {
		trusted = stored == nil
		return stored
	}))
	if err != nil {
		t.Fatal(err)
	}
	stored = errors.New("disk full")
	a := newAPI(t)
	a.cfg.Ring, a.cfg.Audit = ring, log
	a.cfg.RequireClientCertificate = true
	a.cfg.TrustsClient = func([][]*x509.Certificate) bool { return trusted }
	r := httptest.NewRequest(http.MethodPost, "/ticket-keys/rotate", http.NoBody)
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{NotAfter: time.Now().Add(time.Hour)}}}}
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || trusted {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := json.NewDecoder(file)
	for _, want := range []audit.Outcome{audit.Applied, audit.Failed} {
		var e audit.Event
		if err := lines.Decode(&e); err != nil || e.Outcome != want {
			t.Errorf("%+v, %v; want it %s", e, err, want)
		}
	}
}
