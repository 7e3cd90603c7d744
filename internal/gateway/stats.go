package gateway

import (
	"net/http"
	"time"

	"socketxp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// stats are the gateway's Prometheus metrics. Their labels are doors and codes of
// our own, never what a peer sent.
type stats struct {
	registry *prometheus.Registry

	entries      *prometheus.CounterVec   // by door
	handshakes   *prometheus.HistogramVec // by door
	refusals     *prometheus.CounterVec   // by door and code
	visits       prometheus.Histogram
	links        prometheus.Histogram
	cuts         *prometheus.CounterVec // by code
	bytes        *prometheus.CounterVec // by direction
	storeErrors  prometheus.Counter
	requestTimes *prometheus.HistogramVec // by status class
	panics       *prometheus.CounterVec   // by what was lost
}

func newStats(g *Gateway) *stats {
	s := &stats{
		registry: prometheus.NewRegistry(),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "socketxp_connections_total", Help: "Connections that came through a door.",
		}, []string{"door"}),
		handshakes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "socketxp_door_seconds", Help: "Time from accepting a connection until it was through its door.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"door"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "socketxp_refusals_total", Help: "What was refused, by door and reason.",
		}, []string{"door", "code"}),
		visits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "socketxp_visit_seconds", Help: "Time to judge and grant a visit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}),
		links: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "socketxp_link_seconds", Help: "Time to judge a link and bring its tickets to both ends.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 4, 8),
		}),
		cuts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "socketxp_sessions_cut_total", Help: "Sessions that the gateway ended, by reason.",
		}, []string{"code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "socketxp_link_bytes_total", Help: "Bytes of links that are over, as they crossed the gateway.",
		}, []string{"direction"}),
		storeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "socketxp_store_errors_total", Help: "Questions that the database did not answer.",
		}),
		requestTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "socketxp_http_request_seconds", Help: "Time to serve an HTTP request, by class of status.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"status"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "socketxp_panics_total", Help: "What was lost to a fault of the gateway, by kind.",
		}, []string{"lost"}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "socketxp_build_info", Help: "The version of the program; always 1.",
	}, []string{"version"})
	info.WithLabelValues(g.version).Set(1)
	s.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info,
		s.entries, s.handshakes, s.refusals, s.visits, s.links, s.cuts, s.bytes, s.storeErrors, s.requestTimes, s.panics,
		gauge("socketxp_devices_connected", "Devices whose control channel is open here.", func() float64 {
			devices, _ := g.live.counts()
			return float64(devices)
		}),
		gauge("socketxp_sessions_open", "Sessions that are open here.", func() float64 {
			_, visits := g.live.counts()
			return float64(visits)
		}),
		gauge("socketxp_links_waiting", "Links one or both halves of which are still to come.", func() float64 {
			waiting, _ := g.relay.Counts()
			return float64(waiting)
		}),
		gauge("socketxp_links_open", "Links that are joined.", func() float64 {
			_, joined := g.relay.Counts()
			return float64(joined)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "socketxp_links_spliced_total", Help: "Directions of links whose bytes stay in the kernel.",
		}, func() float64 {
			spliced, _ := g.relay.Directions()
			return float64(spliced)
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "socketxp_links_copied_total", Help: "Directions of links that go through the gateway's memory, by a WebSocket.",
		}, func() float64 {
			_, copied := g.relay.Directions()
			return float64(copied)
		}),
		gauge("socketxp_connections_unproven", "Connections that have not shown yet who they are.", func() float64 {
			return float64(g.preAuth.count())
		}),
		gauge("socketxp_clock_behind_seconds", "How far the machine's clock is behind the latest time that was seen.", func() float64 {
			return g.clock.behind().Seconds()
		}),
	)
	return s
}

func (s *stats) entered(door string, start time.Time) {
	s.entries.WithLabelValues(door).Inc()
	s.handshakes.WithLabelValues(door).Observe(time.Since(start).Seconds())
}

// refused counts a refusal. Code must be one of ours, not a peer's.
func (s *stats) refused(door string, code socketxp.Code) {
	s.refusals.WithLabelValues(door, string(code)).Inc()
}

func (s *stats) visited(start time.Time) { s.visits.Observe(time.Since(start).Seconds()) }
func (s *stats) linked(start time.Time)  { s.links.Observe(time.Since(start).Seconds()) }
func (s *stats) cut(code socketxp.Code)  { s.cuts.WithLabelValues(string(code)).Inc() }
func (s *stats) storeError()             { s.storeErrors.Inc() }
func (s *stats) panicked(lost string)    { s.panics.WithLabelValues(lost).Inc() }

func (s *stats) linkOver(up, down int64) {
	s.bytes.WithLabelValues("up").Add(float64(up))
	s.bytes.WithLabelValues("down").Add(float64(down))
}

// requested counts an HTTP request by the class of its status: 2xx, 3xx, 4xx, 5xx.
func (s *stats) requested(start time.Time, status int) {
	class := "5xx"
	if status >= 100 && status < 600 {
		class = string(rune('0'+status/100)) + "xx"
	}
	s.requestTimes.WithLabelValues(class).Observe(time.Since(start).Seconds())
}

// newMetricsServer serves /metrics on the loopback listener of its own.
func (g *Gateway) newMetricsServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.stats.registry, promhttp.HandlerOpts{}))
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}
