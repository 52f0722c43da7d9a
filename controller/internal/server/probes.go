package server

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Probes are the HTTP endpoints that need no token and read nothing but how this process is.
type Probes struct {
	// Checks decide /ready; each has checkTime.
	Checks []Check
	// Info is what /api/v1/info says, but for uptime and leader.
	Info Info
	// Leader says who leads; empty when nobody is known to.
	Leader func() Leader
	// Started is when the process did.
	Started time.Time
}

// Check is one condition of readiness.
type Check struct {
	Name string
	// Run returns what is good, for people, or an error that says what is not.
	Run func(ctx context.Context) (message string, err error)
}

// Info describes this controller.
type Info struct {
	Name          string   `json:"name"`
	Version       string   `json:"version"`
	Commit        string   `json:"commit"`
	ClusterID     string   `json:"cluster_id"`
	ControllerID  string   `json:"controller_id"`
	Leader        Leader   `json:"leader"`
	APIVersions   []string `json:"api_versions"`
	StoreKind     string   `json:"store_kind"`
	UptimeSeconds int64    `json:"uptime_seconds"`
}

// Leader is the controller that serves agents.
type Leader struct {
	ID string `json:"id"`
	// Address is where agents reach it.
	Address string `json:"address"`
}

type checkResult struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
}

// checkTime bounds one check.
const checkTime = 2 * time.Second

func (p Probes) mount(mux *http.ServeMux) {
	up := func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"status": "ok", "uptime_seconds": p.uptime()})
	}
	mux.HandleFunc("GET /health", up)
	mux.HandleFunc("GET /live", up)
	mux.HandleFunc("GET /ready", p.ready)
	mux.HandleFunc("GET /api/v1/info", p.info)
}

func (p Probes) uptime() int64 { return int64(time.Since(p.Started) / time.Second) }

func (p Probes) ready(w http.ResponseWriter, r *http.Request) {
	results := make([]checkResult, len(p.Checks))
	var all sync.WaitGroup
	for i, c := range p.Checks {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(r.Context(), checkTime)
			defer cancel()
			message, err := c.Run(ctx)
			if err != nil {
				message = err.Error()
			}
			results[i] = checkResult{Name: c.Name, OK: err == nil, Message: message}
		})
	}
	all.Wait()
	status, ready := http.StatusOK, true
	for _, res := range results {
		if !res.OK {
			status, ready = http.StatusServiceUnavailable, false
		}
	}
	writeJSON(w, status, map[string]any{"ready": ready, "checks": results})
}

func (p Probes) info(w http.ResponseWriter, _ *http.Request) {
	info := p.Info
	info.UptimeSeconds = p.uptime()
	if p.Leader != nil {
		info.Leader = p.Leader()
	}
	writeJSON(w, http.StatusOK, info)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away, or the types are wrong, which a test would show
}
