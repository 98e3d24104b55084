package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sessapi/sessapi/client"
)

// pollConsumers is how often a waiting rotation lists the consumers.
const pollConsumers = time.Second

// maxNamed is the maximum number of consumers that a line names.
const maxNamed = 10

type listCommand struct {
	remote
}

// Run writes a table of the service's keys and one of its consumers.
func (c listCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	keys, err := service.TicketKeys(env.ctx)
	if err != nil {
		return c.explain(err)
	}
	if err := writeSet(env, keys); err != nil {
		return err
	}
	list, err := c.consumers(env, service)
	if err != nil {
		return err
	}
	return consumerTable(env.stdout, list, keys.Generation)
}

// consumers returns the consumers. If this client may not list them, it writes a line
// that says so and returns none.
func (r remote) consumers(env environment, service *client.Client) ([]client.Consumer, error) {
	list, err := service.Consumers(env.ctx)
	if answer, ok := errors.AsType[*client.Error](err); ok && (answer.Status == http.StatusForbidden || answer.Status == http.StatusNotFound) {
		fmt.Fprintf(env.stderr, "the consumers are not shown: %v\n", answer)
		return nil, nil
	}
	if err != nil {
		return nil, r.explain(err)
	}
	return list.Consumers, nil
}

// writeSet writes the generation of a set and a table of its keys.
func writeSet(env environment, keys *client.TicketKeys) error {
	if _, err := fmt.Fprintf(env.stdout, "generation %d\n", keys.Generation); err != nil {
		return err
	}
	return keyTable(env.stdout, keys.Keys)
}

// consumerTable writes a line for each consumer, and the number that hold the
// generation.
func consumerTable(w io.Writer, list []client.Consumer, generation uint64) error {
	if len(list) == 0 {
		return nil
	}
	holding := 0
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nCONSUMER\tKIND\tSTATE\tGENERATION\tSINCE\tDETAIL")
	for _, c := range list {
		if holds(c, generation) {
			holding++
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", c.Name, c.Kind, c.State, c.Generation, c.Since.Format(time.RFC3339), detail(c))
	}
	fmt.Fprintf(table, "%d of %d consumers hold generation %d.\n", holding, len(list), generation)
	return table.Flush()
}

// holds reports whether the consumer holds the generation, or a newer one.
func holds(c client.Consumer, generation uint64) bool {
	return c.State == client.ConsumerCurrent && c.Generation >= generation
}

func detail(c client.Consumer) string {
	if c.Detail == nil {
		return ""
	}
	return *c.Detail
}

type rotateCommand struct {
	remote
	Wait    bool          `env:"-" help:"Wait until all consumers that are not missing hold the keys, and show which are behind."`
	Timeout time.Duration `env:"-" default:"5m" help:"How long to wait."`
}

// Validate implements kong's check of the flags.
func (c rotateCommand) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout must be above 0")
	}
	return nil
}

// Run rotates by one step.
func (c rotateCommand) Run(env environment) error {
	service, err := c.client()
	if err != nil {
		return err
	}
	w := waiting{env: env, service: service, end: time.Now().Add(c.Timeout)}
	keys, err := service.Rotate(env.ctx)
	for c.Wait && isBehind(err) && w.pause() { // of the previous set
		if _, waitErr := w.consumers(0); waitErr != nil {
			return c.explain(waitErr)
		}
		keys, err = service.Rotate(env.ctx)
	}
	if err != nil {
		return c.explain(err)
	}
	if err := writeSet(env, keys); err != nil || !c.Wait {
		return err
	}
	for {
		list, err := w.consumers(keys.Generation)
		if err != nil {
			return c.explain(err)
		}
		if list != nil && w.behind == "" {
			return consumerTable(env.stdout, list.Consumers, keys.Generation)
		}
		if !w.pause() {
			if err := env.ctx.Err(); err != nil {
				return err
			}
			return fmt.Errorf("after %v consumers are behind: %s", c.Timeout, cmp.Or(w.behind, "the service does not say which"))
		}
	}
}

// isBehind reports whether the service refused a rotation because consumers are behind.
func isBehind(err error) bool {
	answer, ok := errors.AsType[*client.Error](err)
	return ok && answer.Code == "consumers_behind"
}

// waiting is the state of a rotation that waits for consumers.
type waiting struct {
	env     environment
	service *client.Client
	end     time.Time
	behind  string // the consumers behind, as last written
}

// pause waits a little, and reports whether time is left.
func (w *waiting) pause() bool {
	select {
	case <-w.env.ctx.Done():
		return false
	case <-time.After(pollConsumers):
		return time.Now().Before(w.end)
	}
}

// consumers returns the consumers, and writes which are behind if that has changed.
// generation 0 means the service's. The list is nil while the service does not answer.
func (w *waiting) consumers(generation uint64) (*client.Consumers, error) {
	list, err := w.service.Consumers(w.env.ctx)
	if err != nil {
		if answer, ok := errors.AsType[*client.Error](err); ok && answer.Status < 500 && answer.Status != http.StatusTooManyRequests {
			return nil, err
		}
		return nil, nil // the service may answer later
	}
	if generation == 0 {
		generation = list.Generation
	}
	var behind []string
	for _, c := range list.Consumers {
		if !holds(c, generation) && c.State != client.ConsumerMissing {
			text := fmt.Sprintf("%s (%s", c.Name, c.State)
			if d := detail(c); d != "" {
				text += ": " + d
			}
			behind = append(behind, text+")")
		}
	}
	if more := len(behind) - maxNamed; more > 0 {
		behind = append(behind[:maxNamed], fmt.Sprintf("%d more", more))
	}
	text := strings.Join(behind, ", ")
	if text != "" && text != w.behind {
		fmt.Fprintf(w.env.stderr, "waiting for %s\n", text)
	}
	w.behind = text
	return list, nil
}
