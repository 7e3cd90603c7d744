package main

import (
	"math"
	"slices"
)

// series is one figure, measured round after round.
type series []float64

// median returns the middle one; of none it is not a number.
func (s series) median() float64 { return s.quantile(0.5) }

// quantile returns the smallest value that is not below a part q of all.
func (s series) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	if q == 0.5 && len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// over returns each round's value as a part of the other's in the same round: what
// else the machine did in that round is in both.
func (s series) over(other series) series {
	var r series
	for i := range min(len(s), len(other)) {
		r = append(r, s[i]/other[i])
	}
	return r
}
