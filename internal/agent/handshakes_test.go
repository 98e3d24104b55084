package agent

import (
	"slices"
	"testing"
)

// statHeader and statLines are from HAProxy 2.6, without most columns.
const statHeader = "# pxname,svname,qcur,status,ssl_sess,ssl_reused_sess,ssl_failed_handshake,\n"

func TestParseHandshakes(t *testing.T) {
	got, err := parseHandshakes([]byte(statHeader + "tls,FRONTEND,,OPEN,3,4,0,\nplain,FRONTEND,,OPEN,0,0,0,\n\"tls-2\",FRONTEND,,\"OPEN, or so\",0,1,0,\n\n"))
	if want := []Handshakes{{"tls", 3, 4}, {"tls-2", 0, 1}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	for _, answer := range []string{
		"", "\n", "Permission denied\n", "# pxname,svname,ssl_sess,\ntls,FRONTEND,1,\n",
		statHeader + "tls,FRONTEND,,OPEN,-3,4,0,\n", statHeader + "tls,FRONTEND,,OPEN,3,,0,\n",
		statHeader + "tls,FRONTEND\n", statHeader + "a b,FRONTEND,,OPEN,3,4,0,\n",
		statHeader + "tls,FRONTEND,,OPEN,3,4,0,\ntls,FRONTEND,,OPEN,3,4,0,\n",
	} {
		if got, err := parseHandshakes([]byte(answer)); err == nil {
			t.Errorf("%q: %v", answer, got)
		}
	}
}

func FuzzParseHandshakes(f *testing.F) {
	f.Add([]byte(statHeader + "tls,FRONTEND,,OPEN,3,4,0,\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		all, err := parseHandshakes(answer)
		for _, h := range all {
			if err != nil || !frontendPattern.MatchString(h.Frontend) || h.Full+h.Resumed == 0 {
				t.Errorf("%v %v", h, err)
			}
		}
	})
}
