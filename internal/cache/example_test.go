package cache_test

import (
	"fmt"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

func Example() {
	c, err := cache.New(cache.Config{Memory: 64 << 20, MaxSessionBytes: 16 << 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	id, err := cache.ParseID("5fd2a1c90b")
	if err != nil {
		fmt.Println(err)
		return
	}
	session := []byte("what the server serialized")
	absent := func(_ cache.Tag, exists bool) bool { return !exists }
	for range 2 {
		_, err := c.Put(id, session, cache.PutOptions{ExpiresAt: time.Now().Add(5 * time.Minute), If: absent})
		fmt.Println("stored:", err)
	}

	buf := make([]byte, 0, 16<<10) // kept and used again by the caller
	data, e, ok := c.Get(buf, id)
	fmt.Println(ok, e.Size, string(data))

	_ = c.Delete(id, nil)
	_, _, ok = c.Get(buf, id)
	fmt.Println(ok)
	// Output:
	// stored: <nil>
	// stored: cache: the condition does not hold
	// true 26 what the server serialized
	// false
}
