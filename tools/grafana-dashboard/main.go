// The command grafana-dashboard writes the dashboard for Grafana to standard output. With
// -picture it draws what the dashboard shows of a running Prometheus instead.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "grafana-dashboard:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("grafana-dashboard", flag.ContinueOnError)
	file := flags.String("picture", "", "`file` to draw the dashboard into, as PNG")
	server := flags.String("prometheus", "", "`URL` of the Prometheus whose data is drawn")
	shown := flags.Duration("time", 10*time.Minute, "how long the picture shows")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || (*file == "") != (*server == "") {
		return errors.New("usage: grafana-dashboard [-picture file -prometheus URL [-time duration]]")
	}
	d, err := newDashboard()
	if err != nil {
		return err
	}
	if *file != "" {
		return picture(ctx, d, source{url: *server, end: time.Now(), span: *shown}, *file)
	}
	e := json.NewEncoder(stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(d)
}
