package main

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// The grid of the dashboard in pixels.
const (
	columnWidth = 58
	rowHeight   = 26
	gap         = 5
)

func rgb(hex uint32) color.Color {
	return color.RGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 255}
}

var (
	background = rgb(0x111217)
	surface    = rgb(0x181b1f)
	border     = rgb(0x303339)
	strong     = rgb(0xe0e0ea)
	weak       = rgb(0x9a9ca8)
	named      = map[string]color.Color{
		"green": rgb(0x73bf69), "yellow": rgb(0xfade2a), "orange": rgb(0xff9830), "red": rgb(0xf2495c),
		"blue": rgb(0x5794f2), "purple": rgb(0xb877d9), "text": strong,
	}
	palette = []color.Color{
		rgb(0x73bf69), rgb(0xfade2a), rgb(0x5794f2), rgb(0xff9830), rgb(0xf2495c), rgb(0xb877d9),
		rgb(0x37bbca), rgb(0xf9934e), rgb(0x96d98d), rgb(0xffb357), rgb(0x8ab8ff), rgb(0xca95e5),
	}
)

// painter draws the panels of a dashboard.
type painter struct {
	draw.Canvas
	data  source
	marks []float64 // when the ticket keys changed
}

// picture draws the dashboard with the data into a file.
func picture(ctx context.Context, d dashboard.Dashboard, data source, path string) error {
	if err := data.findNodes(ctx); err != nil {
		return err
	}
	var height uint32
	for _, p := range d.Panels {
		if p.Panel != nil {
			height = max(height, p.Panel.GridPos.Y+p.Panel.GridPos.H)
		}
	}
	canvas := vgimg.NewWith(vgimg.UseWH(24*columnWidth+gap, vg.Length(height*rowHeight+gap)), vgimg.UseDPI(72), vgimg.UseBackgroundColor(background))
	all := painter{Canvas: draw.New(canvas), data: data}
	marks, err := data.query(ctx, prometheus.Dataquery{Expr: *d.Annotations.List[0].Expr})
	if err != nil {
		return err
	}
	for _, s := range marks {
		before := math.NaN()
		for i, v := range s.values {
			if !math.IsNaN(v) && math.IsNaN(before) {
				all.marks = append(all.marks, all.seconds(i))
			}
			before = v
		}
	}
	for _, p := range d.Panels {
		if p.RowPanel != nil {
			c := all.at(*p.RowPanel.GridPos)
			c.write(strong, 13, 6, c.height()/2, *p.RowPanel.Title)
			continue
		}
		c := all.at(*p.Panel.GridPos)
		c.FillPolygon(surface, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
		c.write(strong, 12, 8, c.height()-12, *p.Panel.Title)
		var columns [][]series
		for _, target := range p.Panel.Targets {
			found, err := data.query(ctx, target.(prometheus.Dataquery))
			if err != nil {
				return err
			}
			columns = append(columns, found)
		}
		unit := *p.Panel.FieldConfig.Defaults.Unit
		switch p.Panel.Type {
		case "stat":
			c.number(columns[0], p.Panel.FieldConfig.Defaults, unit)
		case "timeseries":
			c.graph(slices.Concat(columns...), *p.Panel.FieldConfig, unit)
		case "state-timeline":
			c.timeline(columns[0], p.Panel.FieldConfig.Defaults.Mappings, unit)
		case "table":
			c.consumers(columns)
		default:
			return fmt.Errorf("panel %s: cannot draw a %s", *p.Panel.Title, p.Panel.Type)
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(file, fewColors(canvas.Image())); err != nil {
		return err
	}
	return file.Close()
}

// fewColors is the picture with its 256 most frequent colours, which makes the file small.
func fewColors(in image.Image) image.Image {
	count := map[color.RGBA]int{}
	bounds := in.Bounds()
	each := func(do func(x, y int, c color.RGBA)) {
		for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
			for x := bounds.Min.X; x < bounds.Max.X; x++ {
				c := color.RGBAModel.Convert(in.At(x, y)).(color.RGBA)
				do(x, y, color.RGBA{R: c.R &^ 3, G: c.G &^ 3, B: c.B &^ 3, A: 255})
			}
		}
	}
	each(func(_, _ int, c color.RGBA) { count[c]++ })
	var frequent color.Palette
	for c := range count {
		frequent = append(frequent, c)
	}
	slices.SortFunc(frequent, func(a, b color.Color) int {
		x, y := a.(color.RGBA), b.(color.RGBA)
		return cmp.Or(count[y]-count[x], cmp.Compare(x.R, y.R), cmp.Compare(x.G, y.G), cmp.Compare(x.B, y.B))
	})
	frequent = frequent[:min(256, len(frequent))]
	index := map[color.RGBA]uint8{}
	out := image.NewPaletted(bounds, frequent)
	each(func(x, y int, c color.RGBA) {
		i, known := index[c]
		if !known {
			i = uint8(frequent.Index(c))
			index[c] = i
		}
		out.SetColorIndex(x, y, i)
	})
	return out
}

// at is the part of the picture for a panel.
func (c painter) at(pos dashboard.GridPos) painter {
	left, top := vg.Length(pos.X*columnWidth+gap), c.Max.Y-vg.Length(pos.Y*rowHeight+gap)
	c.Rectangle = vg.Rectangle{
		Min: vg.Point{X: left, Y: top - vg.Length(pos.H*rowHeight) + gap},
		Max: vg.Point{X: left + vg.Length(pos.W*columnWidth) - gap, Y: top},
	}
	return c
}

func (c painter) width() vg.Length  { return c.Max.X - c.Min.X }
func (c painter) height() vg.Length { return c.Max.Y - c.Min.Y }

func style(color color.Color, size vg.Length) text.Style {
	return text.Style{
		Color: color, Font: font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size),
		YAlign: text.YCenter, Handler: plot.DefaultTextHandler,
	}
}

// write puts a text right of a point that is relative to the panel.
func (c painter) write(color color.Color, size, x, y vg.Length, words string) {
	c.FillText(style(color, size), vg.Point{X: c.Min.X + x, Y: c.Min.Y + y}, words)
}

// seconds is the Unix time of the i-th value.
func (c painter) seconds(i int) float64 {
	return float64(c.data.start().Add(time.Duration(i)*c.data.step()).UnixMilli()) / 1000
}

// number draws the latest value in the colour of its threshold.
func (c painter) number(found []series, defaults dashboard.FieldConfig, unit string) {
	words, ink := "no data", weak
	if defaults.NoValue != nil {
		words = *defaults.NoValue
	}
	if len(found) > 0 {
		v := found[0].last()
		words = format(v, unit)
		for _, step := range defaults.Thresholds.Steps {
			if step.Value == nil || v >= *step.Value {
				ink = named[step.Color]
			}
		}
	}
	s := style(ink, 26)
	s.XAlign = text.XCenter
	c.FillText(s, vg.Point{X: c.Min.X + c.width()/2, Y: c.Min.Y + c.height()*0.4}, words)
}

// graph draws lines, areas on one another, or bars.
func (c painter) graph(found []series, fields dashboard.FieldConfigSource, unit string) {
	custom := fields.Defaults.Custom.(*timeseries.FieldConfig)
	inks := make([]color.Color, len(found))
	for n, s := range found {
		inks[n] = palette[n%len(palette)]
		for _, override := range fields.Overrides {
			if name, ok := override.Matcher.Options.(*string); ok && *name == s.name {
				inks[n] = named[override.Properties[0].Value.(map[string]string)["fixedColor"]]
			}
		}
	}
	isStacked := custom.Stacking != nil
	isBars := custom.DrawStyle != nil && *custom.DrawStyle == "bars"
	below := c.legend(found, inks)
	p := c.axes(unit)
	base := make([]float64, samples+1)
	var layers []plot.Plotter
	for n, s := range found {
		ink := inks[n]
		var part plotter.XYs
		flush := func() {
			if len(part) > 0 {
				l := &plotter.Line{XYs: part, LineStyle: draw.LineStyle{Color: ink, Width: 1.4}}
				if isStacked {
					l.FillColor = shade(ink)
				}
				layers = append(layers, l)
			}
			part = nil
		}
		for i, v := range s.values {
			switch {
			case math.IsNaN(v):
				flush()
			case isBars:
				if v > 0 {
					layers = append(layers, &plotter.Line{
						XYs:       plotter.XYs{{X: c.seconds(i), Y: 0}, {X: c.seconds(i), Y: v}},
						LineStyle: draw.LineStyle{Color: ink, Width: 1.4},
					})
				}
			case isStacked:
				base[i] += v
				part = append(part, plotter.XY{X: c.seconds(i), Y: base[i]})
			default:
				part = append(part, plotter.XY{X: c.seconds(i), Y: v})
			}
		}
		flush()
	}
	if isStacked { // the lowest layer in front
		slices.Reverse(layers)
	}
	p.Add(layers...)
	if p.Y.Min >= 0 {
		p.Y.Min = 0
	}
	if p.Y.Max <= p.Y.Min || math.IsInf(p.Y.Max, 0) {
		p.Y.Min, p.Y.Max = 0, 1
	}
	p.Draw(draw.Crop(c.Canvas, 6, -10, below+4, -24))
}

// shade is a colour as an area.
func shade(c color.Color) color.Color {
	r, g, b, _ := c.RGBA()
	mix := func(v uint32, over uint32) uint8 { return uint8((v>>8*45 + over*55) / 100) }
	return color.RGBA{R: mix(r, 0x18), G: mix(g, 0x1b), B: mix(b, 0x1f), A: 255}
}

// axes is an empty plot with time, values and the changes of the ticket keys.
func (c painter) axes(unit string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = surface
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.LineStyle.Width = 0
		axis.Tick.LineStyle.Width = 0
		axis.Tick.Label.Color = weak
		axis.Tick.Label.Font = style(weak, 10).Font
		axis.Padding = 0
	}
	p.X.Min, p.X.Max = c.seconds(0), c.seconds(samples)
	p.X.Tick.Marker = plot.TickerFunc(func(from, to float64) (ticks []plot.Tick) {
		step := c.data.span.Seconds() / 5
		for at := from + step/2; at < to; at += step {
			ticks = append(ticks, plot.Tick{Value: at, Label: time.Unix(int64(at), 0).UTC().Format("15:04:05")})
		}
		return ticks
	})
	p.Y.Tick.Marker = plot.TickerFunc(func(from, to float64) (ticks []plot.Tick) {
		scale := scaleOf(max(-from, to), unit)
		for _, tick := range (plot.DefaultTicks{}).Ticks(from/scale, to/scale) {
			if !tick.IsMinor() {
				ticks = append(ticks, plot.Tick{Value: tick.Value * scale, Label: format(tick.Value*scale, unit)})
			}
		}
		return ticks
	})
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = border, border
	p.Add(grid, marks{c.marks})
	return p
}

// marks are vertical lines.
type marks struct{ at []float64 }

// Plot implements [plot.Plotter].
func (m marks) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	for _, at := range m.at {
		c.StrokeLine2(draw.LineStyle{Color: named["blue"], Width: 0.7, Dashes: []vg.Length{3, 3}}, x(at), c.Min.Y, x(at), c.Max.Y)
	}
}

// legend writes the names of the series at the bottom, as many as there is room for, and
// returns its height.
func (c painter) legend(found []series, inks []color.Color) vg.Length {
	const size, line = 10, 14
	lines := 1
	for pass := range 2 {
		y := vg.Length(lines-1)*line + 10
		x := vg.Length(8)
		for n, s := range found {
			width := style(weak, size).Width(s.name) + 26
			if x+width > c.width() && x > 8 {
				if pass == 0 {
					lines++
				}
				x, y = 8, y-line
			}
			if pass == 1 {
				c.FillPolygon(inks[n], []vg.Point{{X: c.Min.X + x, Y: c.Min.Y + y - 1}, {X: c.Min.X + x + 12, Y: c.Min.Y + y - 1}, {X: c.Min.X + x + 12, Y: c.Min.Y + y + 2}, {X: c.Min.X + x, Y: c.Min.Y + y + 2}})
				c.write(weak, size, x+16, y, s.name)
			}
			x += width
		}
	}
	return vg.Length(lines)*line + 6
}

// timeline draws a bar for each series, in a colour for each value.
func (c painter) timeline(found []series, mappings []dashboard.ValueMapping, unit string) {
	var values []float64
	for _, s := range found {
		values = append(values, slices.DeleteFunc(slices.Clone(s.values), math.IsNaN)...)
	}
	slices.Sort(values)
	values = slices.Compact(values)
	look := func(v float64) (color.Color, string) {
		for _, m := range mappings {
			if result, ok := m.ValueMap.Options[fmt.Sprint(v)]; ok {
				return named[*result.Color], *result.Text
			}
		}
		blues := []color.Color{rgb(0x3d71d9), rgb(0x8e62c9), rgb(0x2f9aa8), rgb(0x5a8f3c), rgb(0xb06a2c)}
		return blues[slices.Index(values, v)%len(blues)], format(v, unit)
	}
	const left = 60
	room := c.height() - 60
	bar := min(room/vg.Length(max(1, len(found))), 60)
	x := func(i int) vg.Length { return left + (c.width()-left-12)*vg.Length(i)/(samples+1) }
	for n, s := range found {
		top := c.height() - 32 - vg.Length(n)*bar
		c.write(weak, 10, 8, top-bar/2, s.name)
		for i := 0; i < len(s.values); {
			j := i + 1
			for j < len(s.values) && s.values[j] == s.values[i] {
				j++
			}
			if !math.IsNaN(s.values[i]) {
				ink, words := look(s.values[i])
				from, to := c.Min.X+x(i), c.Min.X+x(j)-1
				c.FillPolygon(shade(ink), []vg.Point{{X: from, Y: c.Min.Y + top - bar + 5}, {X: to, Y: c.Min.Y + top - bar + 5}, {X: to, Y: c.Min.Y + top - 3}, {X: from, Y: c.Min.Y + top - 3}})
				if style(strong, 10).Width(words)+8 < to-from {
					c.write(strong, 10, x(i)+5, top-bar/2, words)
				}
			}
			i = j
		}
	}
	for i := samples / 10; i < samples; i += samples / 5 {
		s := style(weak, 10)
		s.XAlign = text.XCenter
		c.FillText(s, vg.Point{X: c.Min.X + x(i), Y: c.Min.Y + 14}, time.Unix(int64(c.seconds(i)), 0).UTC().Format("15:04:05"))
	}
}

// consumers draws the table: columns are the states, the sets and the last reports.
func (c painter) consumers(columns [][]series) {
	latest := func(found []series, consumer string) float64 {
		for _, s := range found {
			if v := s.values[samples]; s.labels["consumer"] == consumer && !math.IsNaN(v) {
				return v
			}
		}
		return math.NaN()
	}
	widths := []vg.Length{0.03, 0.2, 0.33, 0.48, 0.65, 0.82}
	line := func(y vg.Length, inks []color.Color, cells ...string) {
		for i, cell := range cells {
			c.write(inks[min(i, len(inks)-1)], 12, c.width()*widths[i], y, cell)
		}
		c.StrokeLine2(draw.LineStyle{Color: border, Width: 1}, c.Min.X+8, c.Min.Y+y-12, c.Max.X-8, c.Min.Y+y-12)
	}
	y := c.height() - 40
	line(y, []color.Color{named["blue"]}, "Consumer", "Kind", "State", "Since", "Set of keys", "Last report")
	for _, s := range columns[0] {
		since := s.values[samples]
		if math.IsNaN(since) {
			continue // it was in that state before
		}
		y -= 25
		consumer := s.labels["consumer"]
		ago := c.data.end.Sub(time.UnixMilli(int64(latest(columns[2], consumer)))).Round(time.Second)
		line(y, []color.Color{strong, strong, named[stateColors[s.labels["state"]]], strong}, consumer, s.labels["kind"], s.labels["state"],
			format(since, "dateTimeAsIso"), format(latest(columns[1], consumer), "dateTimeAsIso"), strings.TrimSpace(ago.String()+" ago"))
	}
}
