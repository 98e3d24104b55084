package doctor

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	width      = 80
	maxColumns = 12 // of a matrix
	maxAddress = 27
)

// The colours of a terminal.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	plain  = "\x1b[0m"
)

// WriteTable writes the report for people, in lines of 80 columns.
func (r *Report) WriteTable(w io.Writer, colour bool) error {
	t := &table{Report: r, colour: colour}
	t.nodes()
	for _, matrix := range t.matrices() {
		t.matrix(matrix)
	}
	t.verdict()
	_, err := w.Write(t.out.Bytes())
	return err
}

type table struct {
	*Report
	colour bool
	out    bytes.Buffer
}

func (t *table) paint(colour, text string) string {
	if !t.colour {
		return text
	}
	return colour + text + plain
}

// nodes writes a line for each node.
func (t *table) nodes() {
	fmt.Fprintf(&t.out, "%3s  %-*s  %-7s  %-9s  %-8s  %-5s  %6s\n", "", maxAddress, "NODE", "TLS", "KEY", "ROLE", "LIVES", "FULL")
	for i, n := range t.Nodes {
		var protocols []string
		for _, p := range n.Protocols {
			protocols = append(protocols, p.String())
		}
		if n.Error != "" {
			protocols = []string{"none"}
		}
		key, role, lives, full := "-", "-", "-", "-"
		if n.TicketKey != "" {
			key = short(n.TicketKey)
		}
		if n.ServiceKey != nil {
			role = n.ServiceKey.Role
		}
		if n.TicketLifetimeSeconds > 0 {
			lives = span(time.Duration(n.TicketLifetimeSeconds) * time.Second)
		}
		if n.FullMS > 0 {
			full = strconv.FormatFloat(n.FullMS, 'f', 1, 64) + "ms"
		}
		line := fmt.Sprintf("%3d  %-*s  %-7s  %-9s  %-8s  %-5s  %6s", i+1, maxAddress, shorten(n.Address), strings.Join(protocols, " "), key, role, lives, full)
		fmt.Fprintln(&t.out, strings.TrimRight(line, " "))
	}
}

// shorten cuts the middle out of a long address.
func shorten(address string) string {
	runes := []rune(address)
	if len(runes) <= maxAddress {
		return address
	}
	return string(runes[:maxAddress/2]) + "…" + string(runes[len(runes)-maxAddress/2:])
}

// span is a duration in its largest unit, two where it needs them.
func span(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "0s")
	text = strings.TrimSuffix(text, "0m")
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case strings.HasSuffix(text, "h"), strings.HasSuffix(text, "m"):
		return text
	}
	return d.String()
}

// matrix is who resumes whom in some protocols that are alike in that.
type matrix struct {
	protocols []Protocol
	by        Mechanism
	cells     map[[2]string]Resumption
}

// matrices are those of all protocols and mechanisms, equal ones as one.
func (t *table) matrices() (matrices []matrix) {
	for _, r := range t.Resumptions {
		i := slices.IndexFunc(matrices, func(m matrix) bool { return m.protocols[0] == r.Protocol && m.by == r.By })
		if i < 0 {
			i = len(matrices)
			matrices = append(matrices, matrix{[]Protocol{r.Protocol}, r.By, map[[2]string]Resumption{}})
		}
		matrices[i].cells[[2]string{r.From, r.To}] = r
	}
	for i := 0; i < len(matrices); i++ {
		for j := i + 1; j < len(matrices); j++ {
			if matrices[i].by == matrices[j].by && t.alike(matrices[i], matrices[j]) {
				matrices[i].protocols = append(matrices[i].protocols, matrices[j].protocols...)
				matrices = slices.Delete(matrices, j, j+1)
			}
		}
	}
	slices.SortStableFunc(matrices, func(a, b matrix) int { return -cmp.Compare(a.by, b.by) }) // tickets first
	return matrices
}

func (t *table) alike(a, b matrix) bool {
	for pair, r := range a.cells {
		if other, ok := b.cells[pair]; !ok || other.Resumed != r.Resumed || other.partly != r.partly {
			return false
		}
	}
	return len(a.cells) == len(b.cells)
}

// matrix writes a row for each node whose sessions were offered, and a column for each
// that they were offered to; of more nodes than fit, the pairs that do not resume.
func (t *table) matrix(m matrix) {
	versions := make([]string, len(m.protocols))
	for i, p := range m.protocols {
		versions[i] = p.String()
	}
	what := "tickets"
	if m.by == ByID {
		what = "session IDs"
	}
	resumed, partly := 0, false
	for _, r := range m.cells {
		if r.Resumed {
			resumed++
		}
		partly = partly || r.partly
	}
	fmt.Fprintf(&t.out, "\nTLS %s, %s: ", strings.Join(versions, " and "), what)
	switch {
	case resumed == 0 && !partly:
		fmt.Fprintln(&t.out, "nothing resumes")
		return
	case resumed == len(m.cells):
		fmt.Fprintf(&t.out, "%s resume%s\n", t.paint(green, "all"), m.speed())
		return
	}
	fmt.Fprintf(&t.out, "%d of %d pairs resume%s\n", resumed, len(m.cells), m.speed())
	if len(t.Nodes) > maxColumns {
		t.pairs(m)
		return
	}
	t.out.WriteString("from  to")
	for i := range t.Nodes {
		fmt.Fprintf(&t.out, "%5d", i+1)
	}
	t.out.WriteByte('\n')
	for i, from := range t.Nodes {
		fmt.Fprintf(&t.out, "%4d    ", i+1)
		for _, to := range t.Nodes {
			text, colour := "-", ""
			if r, ok := m.cells[[2]string{from.Address, to.Address}]; ok {
				switch {
				case r.Resumed:
					text, colour = "yes", green
				case r.partly:
					text, colour = "some", yellow
				default:
					text, colour = "no", red
				}
			}
			t.out.WriteString(strings.Repeat(" ", 5-len(text)))
			if colour != "" {
				text = t.paint(colour, text)
			}
			t.out.WriteString(text)
		}
		t.out.WriteByte('\n')
	}
}

// speed compares the medians of full and resumed handshakes.
func (m matrix) speed() string {
	var full, resumed []time.Duration
	for _, r := range m.cells {
		if r.ResumedMS > 0 {
			full = append(full, time.Duration(r.FullMS*float64(time.Millisecond)))
			resumed = append(resumed, time.Duration(r.ResumedMS*float64(time.Millisecond)))
		}
	}
	if len(full) == 0 {
		return ""
	}
	return fmt.Sprintf(", in %.1f ms instead of %.1f ms", median(resumed), median(full))
}

// pairs writes the pairs that do not resume, by number of node.
func (t *table) pairs(m matrix) {
	for i, from := range t.Nodes {
		var to []string
		for j, n := range t.Nodes {
			if r, ok := m.cells[[2]string{from.Address, n.Address}]; ok && !r.Resumed {
				to = append(to, strconv.Itoa(j+1))
			}
		}
		if len(to) > 0 {
			t.wrap(fmt.Sprintf("%4d not to ", i+1), strings.Join(to, " "))
		}
	}
}

// verdict writes the findings.
func (t *table) verdict() {
	t.out.WriteByte('\n')
	if len(t.Findings) == 0 {
		fmt.Fprintln(&t.out, t.paint(green, "Every node resumes the sessions of every node."))
	}
	for _, f := range t.Findings {
		colour := yellow
		if f.Severity == SeverityError {
			colour = red
		}
		fmt.Fprintf(&t.out, "%s %s\n", t.paint(colour, string(f.Severity)), f.Code)
		t.wrap("    ", strings.Join(f.Nodes, ", ")+":")
		t.wrap("    ", f.Text)
	}
}

// wrap writes a text in lines that fit, behind a margin.
func (t *table) wrap(margin, text string) {
	column := 0
	for word := range strings.FieldsSeq(text) {
		size := len([]rune(word))
		switch {
		case column == 0:
			t.out.WriteString(margin)
			column = len(margin)
		case column+1+size > width:
			t.out.WriteString("\n" + strings.Repeat(" ", len(margin)))
			column = len(margin)
		default:
			t.out.WriteByte(' ')
			column++
		}
		t.out.WriteString(word)
		column += size
	}
	t.out.WriteByte('\n')
}
