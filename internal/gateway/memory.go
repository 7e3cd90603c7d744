package gateway

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// memory keeps the process small while most of what it holds is idle devices. With
// 10,000 of them, the runtime's own ways would keep twice of what they need: half of
// it garbage that is not collected yet, and, after a storm, what handshakes took.
type memory struct {
	entered atomic.Int64 // connections that were accepted

	// Of the one who looks:
	before  int64 // entered, at the last look
	burst   bool  // there was one, and what it took was not returned
	calm    int   // looks since it was over
	percent int   // that was set; 0 for none
}

const (
	// aBurst is how many connections between two looks are worth a collection of their
	// garbage: a handshake makes some 100 KiB of it. It is over after so many looks.
	aBurst    = 64
	calmLooks = 5
	// slack is how much garbage may always lie about: a small heap would be collected
	// all the time.
	slack = 8 << 20
	// A heap may grow by so many percent until it is collected: not by much in a burst,
	// as what survives in it is spread over all that the heap ever was, and by less when
	// there is none. 10,000 idle devices make 2 MiB of garbage in a second.
	defaultPercent = 100
	burstPercent   = 25
	calmPercent    = 12
)

// look sees whether a burst of connections is over, and returns what it took.
func (m *memory) look(context.Context) {
	entered := m.entered.Load()
	m.calm++
	if entered-m.before >= aBurst {
		m.burst, m.calm = true, 0
	}
	m.before = entered
	if m.burst && m.calm == calmLooks {
		m.burst = false
		debug.FreeOSMemory()
	}
	if os.Getenv("GOGC") != "" {
		return // somebody knows better
	}
	least := burstPercent
	if !m.burst && m.calm >= calmLooks {
		least = calmPercent
	}
	if percent := percentFor(liveHeap(), least); percent != m.percent {
		m.percent = percent
		debug.SetGCPercent(percent)
	}
}

// percentFor returns by how much a heap with so many bytes in use may grow, in few
// steps: each change stops the world for a moment.
func percentFor(live uint64, least int) int {
	percent := defaultPercent
	for percent/2 >= least && live*uint64(percent/2)/100 >= slack {
		percent /= 2
	}
	return percent
}

// liveHeap returns what the last collection of garbage found in use.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
