package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	d, err := newDashboard()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(d)
}
