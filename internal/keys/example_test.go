package keys_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

// A set is pushed, rotated, and written for Traffic Server.
func Example() {
	ring := keys.NewRing(time.Now, keys.Lifecycle{})

	file, err := os.ReadFile("testdata/two.ats") // two keys, by openssl rand 96
	if err != nil {
		panic(err)
	}
	pushed, err := ring.Load(context.Background(), keys.ATS, file, keys.Update{Source: keys.SourceAPI})
	if err != nil {
		panic(err)
	}
	for _, k := range pushed.Keys {
		fmt.Println(k.Name, k.Role, k.Bits)
	}

	// The first step hands out the key that the second makes current.
	unchanged := func(generation uint64) bool { return generation == pushed.Generation }
	if _, err := ring.Rotate(context.Background(), keys.Update{If: unchanged}); err != nil {
		panic(err)
	}
	if _, err := ring.Rotate(context.Background(), keys.Update{If: unchanged}); errors.Is(err, keys.ErrPrecondition) {
		fmt.Println("rotated by someone else in the meantime")
	}

	set, description := ring.Snapshot()
	defer set.Wipe()
	for _, k := range description.Keys {
		fmt.Print(k.Role, " ")
	}
	out := keys.ATS.Append(nil, set)
	defer clear(out)
	fmt.Println(len(out), "bytes")
	fmt.Println("the same key first:", bytes.Equal(out[:48], file[:48]))
	fmt.Printf("%v\n", set.Keys[0])

	// Output:
	// bd2bc1816b6495bb04eed5486a195496 current 128
	// ce3be7b3e086720aca0628d9340826c4 previous 128
	// rotated by someone else in the meantime
	// current next previous 144 bytes
	// the same key first: true
	// ticket key bd2bc1816b6495bb04eed5486a195496 (128 bits)
}

// A fresh set is written for HAProxy, which wants three keys, and for nginx,
// which wants each in a file of its own.
func ExampleFormat_Append() {
	ring := keys.NewRing(time.Now, keys.Lifecycle{})
	set, _ := ring.Snapshot()
	defer set.Wipe()
	text := keys.HAProxy.Append(nil, set)
	defer clear(text)
	fmt.Println(bytes.Count(text, []byte("\n")), "lines")

	for i := range 3 {
		file, err := keys.NGINX.AppendKey(nil, set, i)
		if err != nil {
			panic(err)
		}
		defer clear(file)
		fmt.Printf("ssl_session_ticket_key %d.key; # %d bytes\n", i, len(file))
	}

	// Output:
	// 3 lines
	// ssl_session_ticket_key 0.key; # 80 bytes
	// ssl_session_ticket_key 1.key; # 80 bytes
	// ssl_session_ticket_key 2.key; # 80 bytes
}
