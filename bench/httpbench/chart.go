package main

import (
	"bytes"
	"fmt"
)

// chart is the requests per second of a measure.
type chart struct {
	title string
	bars  []bar
}

type bar struct {
	label string
	rate  float64
}

// chart makes that of the medians; it has no bars for a measure of something else.
func (m *measure) chart(medians map[string]figures) chart {
	ch := chart{title: m.name}
	for _, r := range m.rows {
		if rate, ok := medians[r.name]["rate"]; ok {
			ch.bars = append(ch.bars, bar{r.name, rate})
		}
	}
	return ch
}

// Sizes of the drawing, in pixels.
const (
	chartWidth = 720
	labelWidth = 220
	barHeight  = 18
	barStep    = 24
	titleStep  = 36
)

// drawCharts draws the charts below one another as SVG, all to one scale. Labels are
// this program's own, and have nothing that XML would want escaped.
func drawCharts(charts []chart) []byte {
	height, most := 30, 0.0
	for _, ch := range charts {
		height += titleStep + barStep*len(ch.bars)
		for _, b := range ch.bars {
			most = max(most, b.rate)
		}
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">
<rect width="100%%" height="100%%" fill="white"/>
<text x="10" y="20" fill="#555">requests per second, one core</text>
`, chartWidth, height)
	y := 30
	for _, ch := range charts {
		fmt.Fprintf(&w, "<text x=\"10\" y=\"%d\" font-weight=\"bold\">%s</text>\n", y+24, ch.title)
		y += titleStep
		for _, b := range ch.bars {
			width := b.rate / most * (chartWidth - labelWidth - 80)
			fmt.Fprintf(&w, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", labelWidth-8, y+13, b.label)
			fmt.Fprintf(&w, "<rect x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"%d\" fill=\"%s\"/>", labelWidth, y, width, barHeight, fill(b.label))
			fmt.Fprintf(&w, "<text x=\"%.0f\" y=\"%d\">%.0f</text>\n", labelWidth+width+6, y+13, b.rate)
			y += barStep
		}
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

// fill sets sessapi's bars off from the others.
func fill(label string) string {
	if len(label) >= len(sessapi) && label[:len(sessapi)] == sessapi {
		return "#2a6f97"
	}
	return "#adb5bd"
}
