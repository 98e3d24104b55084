package keys_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sessapi/sessapi/internal/keys"
)

// A set is pushed, rotated, and written for Traffic Server.
func Example() {
	ring := keys.NewRing(time.Now)

	file, err := os.ReadFile("testdata/two.ats") // two keys, by openssl rand 96
	if err != nil {
		panic(err)
	}
	pushed, err := ring.Load(keys.ATS, file, keys.Update{Source: keys.SourceAPI})
	if err != nil {
		panic(err)
	}
	for _, k := range pushed.Keys {
		fmt.Println(k.Name, k.Role, k.Bits)
	}

	// The first step hands out the key that the second makes current.
	unchanged := func(generation uint64) bool { return generation == pushed.Generation }
	if _, err := ring.Rotate(unchanged); err != nil {
		panic(err)
	}
	if _, err := ring.Rotate(unchanged); errors.Is(err, keys.ErrPrecondition) {
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
