package tracing

import (
	"strings"
	"testing"
)

func TestCheckEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://127.0.0.1:4318":          "",
		"https://collector.example/otlp": "",
		"127.0.0.1:4318":                 "must be a URL",
		"grpc://127.0.0.1:4317":          "must be a URL",
		"http://":                        "must be a URL",
		"http://:4318":                   "must be a URL",
		"http://a:secret@127.0.0.1":      "must not contain credentials",
		"http://127.0.0.1?secret":        "query",
		"http://127.0.0.1/#secret":       "fragment",
		"http://a b:secret@c":            "must be a URL",
	} {
		if want == "" && !built {
			want = ErrNotBuilt.Error()
		}
		err := CheckEndpoint(endpoint)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

// Without a tracer in the context, a span costs nothing.
func TestNoAllocations(t *testing.T) {
	ctx := t.Context()
	if got := testing.AllocsPerRun(1000, func() {
		ctx, span := Start(ctx, "a")
		redis := StartRedis(ctx, "b")
		redis.End(nil)
		span.End(nil)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkOff(b *testing.B) {
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		span := StartRedis(ctx, "get")
		span.End(nil)
	}
}
