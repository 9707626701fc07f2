// Command sample is the application that the one-machine cluster and the end-to-end tests run in containers: an HTTP server
// that tells which instance it is and misbehaves on request. It is static, so any root filesystem will do.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

func run() error {
	port := flag.Int("port", 8080, "port to serve at")
	exitAfter := flag.Duration("exit-after", 0, "exit by itself after this time; 0 = never")
	code := flag.Int("code", 1, "exit code of -exit-after")
	ignoreTerm := flag.Bool("ignore-term", false, "do not end on SIGTERM")
	startAfter := flag.Duration("start-after", 0, "begin to listen after this time")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	if *ignoreTerm {
		stop()
		signal.Ignore(syscall.SIGTERM)
		ctx = context.Background()
	} else {
		defer stop()
	}
	if *exitAfter > 0 {
		time.AfterFunc(*exitAfter, func() { os.Exit(*code) })
	}
	if *startAfter > 0 {
		timer := time.NewTimer(*startAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
	return serve(ctx, *port)
}

func serve(ctx context.Context, port int) error {
	server := &http.Server{Addr: ":" + strconv.Itoa(port), Handler: routes(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Printf("instance %s listens at port %d\n", index(), port)
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		fmt.Println("instance", index(), "stops")
		// Requests that run are finished; the platform kills what takes too long.
		if err := server.Shutdown(context.WithoutCancel(ctx)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

// identity answers with the certificate of the instance, as it is now: the platform replaces it before it ends.
func identity(w http.ResponseWriter, _ *http.Request) {
	certificate, key := os.Getenv("CF_INSTANCE_CERT"), os.Getenv("CF_INSTANCE_KEY")
	// Only with its key a certificate is of any use.
	if _, err := tls.LoadX509KeyPair(certificate, key); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	text, err := os.ReadFile(certificate) //nolint:gosec // of our own environment
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Instance-Guid", os.Getenv("INSTANCE_GUID"))
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(text) // the client went away
}

func index() string { return os.Getenv("INSTANCE_INDEX") }

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "instance %s (%s) at %s\n", index(), os.Getenv("INSTANCE_GUID"), os.Getenv("CF_INSTANCE_ADDR"))
	})
	mux.HandleFunc("GET /index", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, index()) })
	mux.HandleFunc("GET /identity", identity)
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		env := map[string]string{}
		for _, variable := range os.Environ() {
			name, value, _ := strings.Cut(variable, "=")
			env[name] = value
		}
		_ = json.NewEncoder(w).Encode(env) // the client went away
	})
	mux.HandleFunc("GET /log/{text}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.PathValue("text"))
		fmt.Fprintln(os.Stderr, "to stderr:", r.PathValue("text"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /exit/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil {
			http.Error(w, "the code must be a number", http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		// After the answer is out.
		time.AfterFunc(50*time.Millisecond, func() { os.Exit(code) })
	})
	return mux
}
