package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// headerTimeout bounds how long a client of the debug listener may take to send its request.
	headerTimeout = 5 * time.Second
	// debugStopTimeout is how long a running scrape may hold up the end of the process.
	debugStopTimeout = time.Second
	// maxLevelBody is more than the longest name of a level.
	maxLevelBody = 64
)

// serveDebug answers on the debug listener until ctx ends.
func (t *Telemetry) serveDebug(ctx context.Context) error {
	server := &http.Server{
		Handler:           t.debugHandler(),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(t.Log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(t.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the debug listener: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), debugStopTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		// A profile that is still being taken is cut off.
		err = server.Close()
		if err != nil {
			return fmt.Errorf("closing the debug listener: %w", err)
		}
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the debug listener: %w", err)
	}
	return nil
}

func (t *Telemetry) debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", t.serveHealth)
	mux.HandleFunc("GET /readyz", t.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.Registry, promhttp.HandlerOpts{Registry: t.Registry}))
	mux.HandleFunc("GET /metrics/names", t.serveNames)
	mux.HandleFunc("GET /log-level", t.serveLevel)
	mux.HandleFunc("PUT /log-level", t.setLevel)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// serveHealth says that the process is alive, which the answer itself proves.
func (t *Telemetry) serveHealth(w http.ResponseWriter, _ *http.Request) {
	t.writeJSON(w, http.StatusOK, map[string]string{"component": t.component, "status": "alive"})
}

func (t *Telemetry) serveReady(w http.ResponseWriter, _ *http.Request) {
	s := t.state()
	code := http.StatusOK
	if !s.Accepting {
		code = http.StatusServiceUnavailable
	}
	t.writeJSON(w, code, s)
}

func (t *Telemetry) serveLevel(w http.ResponseWriter, _ *http.Request) {
	t.writeJSON(w, http.StatusOK, map[string]string{"level": strings.ToLower(t.level.Level().String())})
}

// setLevel takes the name of a level as body and uses it at once.
func (t *Telemetry) setLevel(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLevelBody))
	if err == nil && len(body) == 0 {
		err = errors.New("the body must be the name of a level")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	level, err := parseLevel(string(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	old := t.level.Level()
	t.level.Set(level)
	t.Log.InfoContext(r.Context(), "log-level-changed", "from", old.String(), "to", level.String())
	t.serveLevel(w, r)
}

func (t *Telemetry) writeJSON(w http.ResponseWriter, code int, document any) {
	w.Header().Set("Content-Type", "application/json")
	body, err := json.MarshalIndent(document, "", "  ")
	if err != nil { // a detail that JSON cannot hold
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(code)
	// The client went away: nobody is left to tell.
	_, _ = w.Write(append(body, '\n'))
}
