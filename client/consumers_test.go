package client

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

const consumer = `{"name":"edge-7/web","kind":"nginx","identity":"edge","generation":7,"behind":true,"state":"stale","detail":"one rotation behind",` +
	`"reported_at":"2026-11-24T20:31:02Z","since":"2026-11-24T20:31:02Z","expires_at":"2026-11-24T20:32:02Z"}`

func TestConsumers(t *testing.T) {
	body := `{"generation":8,"consumers":[` + consumer + `]}`
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/consumers" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		_, _ = io.WriteString(w, body)
	})
	list, err := c.Consumers(t.Context())
	if err != nil || list.Generation != 8 || len(list.Consumers) != 1 || list.Consumers[0].Name != "edge-7/web" || !list.Consumers[0].Behind {
		t.Errorf("%+v %v", list, err)
	}
	one := body
	for what, change := range map[string][2]string{
		"name":          {"edge-7/web", `edge-7/web\u001b[2J`},
		"no target":     {"edge-7/web", "edge-7"},
		"long name":     {"edge-7/web", "edge-7/" + strings.Repeat("a", 65)},
		"kind":          {"nginx", "ngi nx"},
		"state":         {"stale", `\u001b`},
		"cut off":       {"]}", ""},
		"too many":      {consumer, consumer + strings.Repeat(","+consumer, maxConsumers)},
		"too large":     {consumer, strings.Repeat(" ", maxConsumersBody)},
		"no generation": {`"generation":7`, `"generation":"` + strings.Repeat("x", 4096) + `"`},
	} {
		body = strings.Replace(one, change[0], change[1], 1)
		list, err := c.Consumers(t.Context())
		if list != nil || err == nil || strings.ContainsRune(err.Error(), '\x1B') || len(err.Error()) > 1024 {
			t.Errorf("%s: %v, %.200v", what, list, err)
		}
	}
	body = strings.Replace(one, "one rotation behind", `\u001b[2J`+strings.Repeat("x", 1000), 1)
	if list, err := c.Consumers(t.Context()); err != nil || strings.ContainsRune(*list.Consumers[0].Detail, '\x1B') || len(*list.Consumers[0].Detail) > 520 {
		t.Errorf("%v %v", list, err)
	}
}

// The service accepts every report, whatever text the detail holds.
func TestReportConsumer(t *testing.T) {
	var got ConsumerReport
	status := http.StatusNoContent
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || r.URL.Path != "/consumers/edge-7/web:443" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
	})
	for _, detail := range []string{"", "plain", "two\nlines", "\xff\x00", strings.Repeat("é", 200), strings.Repeat("x", 255) + "é", strings.Repeat("x", 255) + "…", strings.Repeat("x", 254) + "😀", strings.Repeat("\xff", 1000)} {
		if err := c.ReportConsumer(t.Context(), "edge-7", "web:443", ConsumerReport{
			Kind: "nginx", Generation: 1<<64 - 1, State: ReportFailed, Detail: &detail, ExpiresInSeconds: 90,
		}); err != nil {
			t.Fatal(err)
		}
		if len(*got.Detail) > maxDetail || !utf8.ValidString(*got.Detail) || strings.ContainsAny(*got.Detail, "\n\x00") ||
			utf8.ValidString(detail) && len(*got.Detail) < min(len(detail), maxDetail-utf8.UTFMax) {
			t.Errorf("%.20q: %q", detail, *got.Detail)
		}
	}
	if got.Generation != 1<<64-1 || got.State != ReportFailed || got.ExpiresInSeconds != 90 {
		t.Errorf("%+v", got)
	}
	status = http.StatusForbidden
	err := c.ReportConsumer(t.Context(), "edge-7", "web:443", ConsumerReport{Kind: "nginx", State: ReportCurrent})
	if answer, ok := errors.AsType[*Error](err); !ok || answer.Status != http.StatusForbidden {
		t.Error(err)
	}
}

func TestForgetConsumer(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodDelete || r.URL.Path != "/consumers/edge-7/web" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := c.ForgetConsumer(t.Context(), "edge-7", "web"); err != nil {
		t.Error(err)
	}
}
