package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The pictures of reports: SVG that can be read on light and on dark paper.

// plotStyle has each colour twice.
const plotStyle = `<style>
text{font:12px system-ui,sans-serif;fill:#4b5563}.title{font-size:14px;font-weight:600;fill:#111827}
.grid{stroke:#e5e7eb}.mark{stroke:#9ca3af;stroke-dasharray:3 3}.a{stroke:#2563eb;fill:none;stroke-width:2}.b{stroke:#d97706;fill:none;stroke-width:2}
.bar{fill:#2563eb}.ta{fill:#2563eb}.tb{fill:#b45309}
@media(prefers-color-scheme:dark){text{fill:#9ca3af}.title{fill:#f3f4f6}.grid{stroke:#374151}.mark{stroke:#6b7280}
.a{stroke:#60a5fa}.b{stroke:#fbbf24}.bar{fill:#60a5fa}.ta{fill:#60a5fa}.tb{fill:#fbbf24}}
</style>`

const (
	plotWidth, plotHeight         = 760, 320
	plotLeft, plotRight           = 60, 60
	plotTop, plotBottom           = 60, 40
	plotW, plotH          float64 = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
)

// beginPlot and endPlot are what is around every picture.
func beginPlot(b *strings.Builder, height int, title string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">%s`+"\n", plotWidth, height, html.EscapeString(title), plotStyle)
	fmt.Fprintf(b, `<text class="title" x="%d" y="20">%s</text>`+"\n", plotLeft, html.EscapeString(title))
}

func endPlot(to io.Writer, b *strings.Builder) error {
	b.WriteString("</svg>\n")
	_, err := io.WriteString(to, b.String())
	return err
}

// niceTop returns a round number that is not below most, and in how many steps an
// axis goes there.
func niceTop(most float64) (top float64, steps int) {
	if most <= 0 {
		return 1, 4
	}
	for unit := math.Pow(10, math.Floor(math.Log10(most))-1); ; unit *= 10 {
		for _, step := range []float64{1, 2, 2.5, 5} {
			if n := math.Ceil(most / (step * unit)); n <= 6 {
				return n * step * unit, int(n)
			}
		}
	}
}

// curve is one line of a plot.
type curve struct {
	name string
	y    series
}

// plotTime draws two curves over the same times, in seconds, each with an axis of its
// own, and what began when.
func plotTime(to io.Writer, title string, t series, left, right curve, marks []phase) error {
	var b strings.Builder
	beginPlot(&b, plotHeight+16*len(marks), title)
	last, steps := niceTop(t.quantile(1))
	x := func(at float64) float64 { return plotLeft + plotW*at/last }
	for i := range steps + 1 {
		at := last * float64(i) / float64(steps)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%g s</text>`+"\n", x(at), plotHeight-plotBottom+18, at)
	}
	for i, c := range []curve{left, right} {
		class, place, anchor := "a", plotLeft-8, "end"
		if i == 1 {
			class, place, anchor = "b", plotWidth-plotRight+8, "start"
		}
		top, steps := niceTop(c.y.quantile(1))
		y := func(v float64) float64 { return plotTop + plotH*(1-v/top) }
		for j := range steps + 1 {
			v := top * float64(j) / float64(steps)
			if i == 0 {
				fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, plotLeft, plotWidth-plotRight, y(v), y(v))
			}
			fmt.Fprintf(&b, `<text class="t%s" x="%d" y="%.1f" text-anchor="%s">%g</text>`+"\n", class, place, y(v)+4, anchor, v)
		}
		fmt.Fprintf(&b, `<text class="t%s" x="%d" y="38" text-anchor="%s">%s</text>`+"\n", class, []int{plotLeft, plotWidth - plotRight}[i], []string{"start", "end"}[i], html.EscapeString(c.name))
		fmt.Fprintf(&b, `<polyline class="%s" points="`, class)
		for j, v := range c.y {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(t[j]), y(v))
		}
		b.WriteString(`"/>` + "\n")
	}
	for i, m := range marks {
		at := x(m.at.Seconds())
		fmt.Fprintf(&b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text x="%.1f" y="%d" text-anchor="middle">%d</text>`, at, at, plotTop, plotHeight-plotBottom, at, plotTop-2, i+1)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%d  %.0f s: %s</text>`+"\n", plotLeft, plotHeight+4+16*i, i+1, m.at.Seconds(), html.EscapeString(m.name))
	}
	return endPlot(to, &b)
}

// plotBars draws one bar for each figure, from the left, and a limit.
func plotBars(to io.Writer, title, unit string, bars []figure, limit float64) error {
	const row, labels = 30, 250
	var b strings.Builder
	height := plotTop + row*len(bars) + plotBottom
	beginPlot(&b, height, title)
	most := limit
	for _, f := range bars {
		most = max(most, f.value)
	}
	top, steps := niceTop(most)
	x := func(v float64) float64 { return labels + (plotWidth-plotRight-labels)*v/top }
	bottom := height - plotBottom
	for i := range steps + 1 {
		v := top * float64(i) / float64(steps)
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n", x(v), x(v), plotTop-8, bottom, x(v), bottom+16, v)
	}
	for i, f := range bars {
		y := plotTop + row*i
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect class="bar" x="%d" y="%d" width="%.1f" height="18" rx="2"/><text x="%.1f" y="%d">%.1f</text>`+"\n",
			labels-8, y+14, html.EscapeString(f.name), labels, y, max(x(f.value)-labels, 0), x(f.value)+6, y+14, f.value)
	}
	fmt.Fprintf(&b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text x="%.1f" y="%d" text-anchor="middle">%g %s</text>`+"\n", x(limit), x(limit), plotTop-8, bottom, x(limit), plotTop-12, limit, html.EscapeString(unit))
	return endPlot(to, &b)
}
