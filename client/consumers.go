package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"unicode"

	"github.com/sessapi/sessapi/internal/api"
	"github.com/sessapi/sessapi/internal/printable"
)

const (
	// maxConsumers is how many consumers a service has at most.
	maxConsumers = 4096
	// maxConsumersBody is more than their list takes: each has about 2 KiB at most.
	maxConsumersBody = 8 << 20
	// maxDetail is how long the detail of a report may be, in bytes.
	maxDetail = 256
)

// Consumers is which consumer holds which generation of the ticket keys.
type Consumers = api.Consumers

// Consumer is what the service knows of one consumer.
type Consumer = api.Consumer

// ConsumerState is how a consumer is doing: current, stale, applying, failed or missing.
type ConsumerState = api.ConsumerState

// The states of consumers.
const (
	ConsumerCurrent  = api.ConsumerCurrent
	ConsumerStale    = api.ConsumerStale
	ConsumerApplying = api.ConsumerApplying
	ConsumerFailed   = api.ConsumerFailed
	ConsumerMissing  = api.ConsumerMissing
)

// ConsumerReport is what a consumer says of itself.
type ConsumerReport = api.ConsumerReport

// ConsumerReportState is what a consumer says of its state: current, applying or failed.
type ConsumerReportState = api.ConsumerReportState

// The states that are reported.
const (
	ReportCurrent  = api.ReportCurrent
	ReportApplying = api.ReportApplying
	ReportFailed   = api.ReportFailed
)

// ReportConsumer reports what the consumer target on host holds. The detail is cut to
// 256 bytes; control characters, such as the ends of lines, become spaces.
func (c *Client) ReportConsumer(ctx context.Context, host, target string, r ConsumerReport) error {
	if r.Detail != nil {
		r.Detail = new(plainDetail(*r.Detail))
	}
	_, _, err := c.do(ctx, requestTimeout, maxBody, func(ctx context.Context) (*http.Response, error) {
		return c.api.ReportConsumer(ctx, host, target, r)
	})
	return err
}

// plainDetail is a text that the service takes as the detail of a report.
func plainDetail(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") // a rune that is cut in two goes
	}
	return text
}

// ForgetConsumer makes the service forget the consumer target on host.
func (c *Client) ForgetConsumer(ctx context.Context, host, target string) error {
	_, _, err := c.do(ctx, requestTimeout, maxBody, func(ctx context.Context) (*http.Response, error) {
		return c.api.ForgetConsumer(ctx, host, target)
	})
	return err
}

// Consumers lists the consumers by name.
func (c *Client) Consumers(ctx context.Context) (*Consumers, error) {
	_, body, err := c.do(ctx, requestTimeout, maxConsumersBody, func(ctx context.Context) (*http.Response, error) {
		return c.api.ListConsumers(ctx, nil)
	})
	if err != nil {
		return nil, err
	}
	var list Consumers
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("the service's answer is not a list of consumers: %s", printable.Short(err.Error()))
	}
	if err := checkConsumers(&list); err != nil {
		return nil, fmt.Errorf("the service's answer is not a list of consumers: %w", err)
	}
	return &list, nil
}

var (
	consumerPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}/[A-Za-z0-9._:-]{1,64}$`)
	kindPattern     = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)
)

// checkConsumers holds a list to the contract, and makes its texts printable. The error
// repeats nothing of it.
func checkConsumers(list *Consumers) error {
	if len(list.Consumers) > maxConsumers {
		return fmt.Errorf("it has more than %d consumers", maxConsumers)
	}
	for i := range list.Consumers {
		if err := checkConsumer(&list.Consumers[i]); err != nil {
			return fmt.Errorf("consumer %d: %w", i, err)
		}
	}
	return nil
}

// checkConsumer is checkConsumers for one.
func checkConsumer(c *Consumer) error {
	switch {
	case !consumerPattern.MatchString(c.Name):
		return errors.New("the name is not HOST/TARGET")
	case !kindPattern.MatchString(c.Kind):
		return errors.New("the kind is not a word")
	case !wordPattern.MatchString(string(c.State)):
		return errors.New("the state is not a word")
	}
	for _, text := range []*string{c.Identity, c.Detail} {
		if text != nil {
			*text = printable.Short(*text)
		}
	}
	return nil
}
