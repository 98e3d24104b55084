package doctor

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// helloRecord is a record with a ServerHello and what comes behind it.
func helloRecord(id []byte, extensions func(*cryptobyte.Builder), more ...func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddBytes([]byte{recordHandshake, 3, 3})
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(helloMessage)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(0x303)
			b.AddBytes(make([]byte, 32))
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(id) })
			b.AddBytes([]byte{0xc0, 0x2b, 0})
			if extensions != nil {
				b.AddUint16LengthPrefixed(extensions)
			}
		})
		for _, message := range more {
			message(b)
		}
	})
	return b.BytesOrPanic()
}

func newTicket(b *cryptobyte.Builder) {
	b.AddUint8(ticketMessage)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint32(300); b.AddUint16(1); b.AddUint8(9) })
}

func tls13Extension(b *cryptobyte.Builder) {
	b.AddUint16(supportedVersion)
	b.AddUint16(2)
	b.AddUint16(uint16(TLS13))
}

func TestParseFlight(t *testing.T) {
	t.Parallel()
	id := bytes.Repeat([]byte{7}, 32)
	alert := []byte{recordAlert, 3, 3, 0, 2, 2, 70}
	whole := helloRecord(id, nil, newTicket)
	for name, test := range map[string]struct {
		in   []byte
		want flight
		err  error
	}{
		"nothing":               {nil, flight{}, nil},
		"TLS 1.2":               {whole, flight{version: TLS12, sessionID: id, lifetime: 300 * time.Second}, nil},
		"cut off":               {whole[:len(whole)-1], flight{}, nil},
		"two records":           {append(append([]byte{22, 3, 3, 0, 1, whole[5], 22, 3, 3}, byte((len(whole)-6)>>8), byte(len(whole)-6)), whole[6:]...), flight{version: TLS12, sessionID: id, lifetime: 300 * time.Second}, nil},
		"TLS 1.3":               {helloRecord(nil, tls13Extension), flight{version: TLS13, sessionID: []byte{}}, nil},
		"alert":                 {alert, flight{alert: 70}, nil},
		"encrypted":             {append(helloRecord(id, nil), append([]byte{20, 3, 3, 0, 1, 1}, whole...)...), flight{version: TLS12, sessionID: id}, nil},
		"HTTP":                  {[]byte("HTTP/1.1 400 Bad Request"), flight{}, errNotTLS},
		"SSH":                   {[]byte("SSH"), flight{}, errNotTLS},
		"long ID":               {helloRecord(make([]byte, 33), nil), flight{}, errNotTLS},
		"half an extension":     {helloRecord(id, func(b *cryptobyte.Builder) { b.AddUint8(0) }), flight{}, errNotTLS},
		"version of one byte":   {helloRecord(id, func(b *cryptobyte.Builder) { b.AddUint16(supportedVersion); b.AddUint16(1); b.AddUint8(3) }), flight{}, errNotTLS},
		"ServerHello too short": {[]byte{22, 3, 3, 0, 5, 2, 0, 0, 1, 3}, flight{}, errNotTLS},
	} {
		got, err := parseFlight(test.in)
		if err != test.err || got.version != test.want.version || !bytes.Equal(got.sessionID, test.want.sessionID) ||
			got.lifetime != test.want.lifetime || got.alert != test.want.alert {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseFlight(f *testing.F) {
	f.Add(helloRecord(make([]byte, 32), nil, newTicket))
	f.Add(helloRecord(nil, tls13Extension))
	f.Add([]byte{recordAlert, 3, 3, 0, 2, 2, 70})
	f.Add([]byte("HTTP/1.1 400 Bad Request"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parseFlight(data)
		if err == nil && len(got.sessionID) > 32 {
			t.Errorf("a session ID of %d bytes", len(got.sessionID))
		}
	})
}

func TestWithSessionID(t *testing.T) {
	t.Parallel()
	client := &Client{ServerName: "example.test", Timeout: time.Second}
	hello := clientHello(client.config(TLS12))
	for _, size := range []int{1, 31, 32} {
		id := bytes.Repeat([]byte{7}, size)
		changed, err := withSessionID(hello, id)
		if err != nil {
			t.Fatal(err)
		}
		const before = 5 + 4 + 2 + 32
		if int(changed[before]) != size || !bytes.Equal(changed[before+1:][:size], id) || !bytes.Equal(changed[before+1+size:], hello[before+1+32:]) ||
			len(changed)-5 != int(changed[3])<<8+int(changed[4]) || len(changed)-9 != int(changed[7])<<8+int(changed[8]) {
			t.Errorf("an ID of %d bytes: %x", size, changed)
		}
	}
	for i := range 40 {
		if _, err := withSessionID(hello[:i], nil); err == nil {
			t.Errorf("%d bytes are a ClientHello", i)
		}
	}
}
