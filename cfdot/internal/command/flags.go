package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"diego.internal/cfdot/internal/contexts"
	"diego.internal/cfdot/internal/output"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

// flags that every command takes, each with its variable of the environment; a flag wins.
type flags struct {
	bbs, locket   string
	auctioneer    string
	ca, cert, key string
	timeout       string
	outputName    string
	noHeaders     bool
	// contextName is the cluster of the file of contexts that is used; empty if none is.
	contextName string
	verbose     bool
	// skipVerify is known only to be refused in words that say why.
	skipVerify bool

	format output.Format
	limit  time.Duration
	pace   *pace

	loading sync.Mutex
	source  *mtls.Source // guarded by loading
	stderr  io.Writer
}

func (f *flags) register(root *cobra.Command) {
	set := root.PersistentFlags()
	set.StringVar(&f.bbs, "bbsURL", "", "addresses of the BBSes, https://HOST:PORT or HOST:PORT, separated by commas [BBS_URL]")
	set.StringVar(&f.bbs, "bbs", "", "the same as --bbsURL")
	set.StringVar(&f.locket, "locketAPILocation", "", "addresses of the lockets, HOST:PORT, separated by commas [LOCKET_API_LOCATION]")
	set.StringVar(&f.auctioneer, "auctioneerLocation", "", "addresses of the auctioneers, HOST:PORT, separated by commas [AUCTIONEER_LOCATION]")
	set.StringVar(&f.ca, "caCertFile", "", "bundle of the authorities that certify servers [CA_CERT_FILE]")
	set.StringVar(&f.cert, "clientCertFile", "", "certificate of the operator [CLIENT_CERT_FILE]")
	set.StringVar(&f.key, "clientKeyFile", "", "its key [CLIENT_KEY_FILE]")
	set.StringVar(&f.timeout, "timeout", "", "seconds for each request, 0 for no limit; default 10 [CFDOT_TIMEOUT]")
	set.StringVarP(&f.outputName, "output", "o", "", output.Formats+"; default table on a terminal, else json (a document a line)")
	set.StringVar(&f.contextName, "context", "", "a cluster of the file of contexts [CFDOT_CONTEXT]")
	set.BoolVar(&f.verbose, "verbose", false, "say on standard error which servers are asked, and the id by which their logs know the request")
	set.BoolVar(&f.noHeaders, "no-headers", false, "no names above the columns of a table")
	set.BoolVar(&f.skipVerify, "skipCertVerify", false, "")
	_ = set.MarkHidden("skipCertVerify") // it is defined one line above
}

// fill takes from elsewhere what no flag gave. Addresses never come half from a context and half from the environment, since those
// may be of two clusters: a context that a flag names wins over the environment, because whoever types a name means that cluster;
// one that the environment or the file names counts only if neither flags nor environment name a server.
func (f *flags) fill(getenv func(string) string) error {
	file, err := contexts.Load(contexts.Path(getenv))
	if err != nil {
		return usageError{err}
	}
	typed := f.contextName != ""
	if !typed {
		fillEmpty(getenv, map[string]*string{"BBS_URL": &f.bbs, "LOCKET_API_LOCATION": &f.locket, "AUCTIONEER_LOCATION": &f.auctioneer})
		if f.bbs == "" && f.locket == "" && f.auctioneer == "" {
			f.contextName = cmp.Or(getenv("CFDOT_CONTEXT"), file.Current)
		}
	}
	if f.contextName != "" {
		c, err := file.Find(f.contextName)
		if err != nil {
			return usage("context %w", err)
		}
		f.bbs, f.locket, f.auctioneer = cmp.Or(f.bbs, c.BBS), cmp.Or(f.locket, c.Locket), cmp.Or(f.auctioneer, c.Auctioneer)
		f.ca, f.cert, f.key = cmp.Or(f.ca, c.CA), cmp.Or(f.cert, c.Certificate), cmp.Or(f.key, c.Key)
	}
	fillEmpty(getenv, map[string]*string{"CA_CERT_FILE": &f.ca, "CLIENT_CERT_FILE": &f.cert, "CLIENT_KEY_FILE": &f.key, "CFDOT_TIMEOUT": &f.timeout})
	return nil
}

func fillEmpty(getenv func(string) string, variables map[string]*string) {
	for name, value := range variables {
		*value = cmp.Or(*value, getenv(name))
	}
}

// cluster is what the user calls the servers that a command talks to.
func (f *flags) cluster() string { return cmp.Or(f.contextName, f.bbs, f.locket) }

// complete fills what no flag gave and checks what does not depend on the command.
func (f *flags) complete(a *app) error {
	f.stderr = a.Stderr
	if f.verbose {
		_, _ = fmt.Fprintf(f.stderr, "request %s\n", a.requestID)
	}
	if err := f.fill(a.Getenv); err != nil {
		return err
	}
	if value := a.Getenv("SKIP_CERT_VERIFY"); value != "" && !f.skipVerify {
		skip, err := strconv.ParseBool(value)
		if err != nil {
			return usage("SKIP_CERT_VERIFY must be true or false, not %q", value)
		}
		f.skipVerify = skip
	}
	if f.skipVerify {
		return usage("skipCertVerify: servers are always verified; give their authorities with caCertFile")
	}
	f.limit = grpcclient.DefaultTimeout
	if f.timeout != "" {
		seconds, err := strconv.Atoi(f.timeout)
		if err != nil || seconds < 0 {
			return usage("timeout must be a whole number of seconds, not %q", f.timeout)
		}
		f.limit = time.Duration(seconds) * time.Second
	}
	format, err := output.ParseFormat(f.outputName, a.Terminal)
	if err != nil {
		return usageError{err}
	}
	f.format = format
	return nil
}

// certificates loads the operator's certificate. There is no way around verification.
func (f *flags) certificates() (*mtls.Source, error) {
	f.loading.Lock()
	defer f.loading.Unlock()
	if f.source != nil {
		return f.source, nil
	}
	var missing []string
	for _, file := range []struct{ name, value string }{{"caCertFile", f.ca}, {"clientCertFile", f.cert}, {"clientKeyFile", f.key}} {
		if file.value == "" {
			missing = append(missing, file.name)
		}
	}
	if len(missing) > 0 {
		return nil, usage("certificates are needed, but there is no %s: give the flags caCertFile, clientCertFile and clientKeyFile, or CA_CERT_FILE, CLIENT_CERT_FILE and CLIENT_KEY_FILE",
			strings.Join(missing, ", no "))
	}
	source, err := mtls.Load(mtls.Config{CA: f.ca, Certificate: f.cert, Key: f.key})
	if err != nil {
		return nil, usage("loading the certificates: %w", err)
	}
	f.source = source
	return source, nil
}

// addresses splits a list and takes https:// off; http:// is refused, there is no plaintext.
func addresses(name, list string) ([]string, error) {
	if list == "" {
		return nil, usage("%s must be given by flag or environment", name)
	}
	var out []string
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSuffix(strings.TrimSpace(item), "/")
		address, isURL := strings.CutPrefix(item, "https://")
		if !isURL && strings.Contains(item, "://") {
			return nil, usage("%s: the scheme must be https, in %q", name, item)
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return nil, usage("%s: %q must be HOST:PORT", name, item)
		}
		out = append(out, address)
	}
	return out, nil
}

func (f *flags) dialBBS() (connection, error) {
	conn, err := f.dial("bbsURL", f.bbs, mtls.Peer{Role: mtls.RoleBBS}, "bbs.v1")
	if err != nil {
		return nil, err
	}
	if f.pace == nil {
		f.pace = newPace()
	}
	return paced{ClientConn: conn, pace: f.pace}, nil
}

func (f *flags) dialLocket() (*grpc.ClientConn, error) {
	return f.dial("locketAPILocation", f.locket, mtls.Peer{Role: mtls.RoleLocket}, "locket.v1")
}

// cellTime is the time of one question to a cell. It always has a limit: one cell that hangs must not hold up a list of all.
func (f *flags) cellTime() time.Duration {
	if f.limit == 0 {
		return grpcclient.DefaultTimeout
	}
	return f.limit
}

func (f *flags) dialCell(id, address string) (*grpc.ClientConn, error) {
	return f.dial("rep_url of cell "+id, address, mtls.Peer{Role: mtls.RoleCell, Name: id}, "")
}

func (f *flags) dial(name, list string, server mtls.Peer, health string) (*grpc.ClientConn, error) {
	hosts, err := addresses(name, list)
	if err != nil {
		return nil, err
	}
	source, err := f.certificates()
	if err != nil {
		return nil, err
	}
	if f.verbose {
		_, _ = fmt.Fprintf(f.stderr, "asking %s at %s\n", server.Role, strings.Join(hosts, ", "))
	}
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: hosts}, grpcclient.Options{
		Source: source, Server: server, HealthService: health, Telemetry: telemetry.Discard(), Timeout: f.requestTime(),
	})
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", strings.Join(hosts, ", "), err)
	}
	return conn, nil
}

// requestTime is the time of one unary request.
func (f *flags) requestTime() time.Duration {
	if f.limit == 0 {
		return 365 * 24 * time.Hour // as good as no limit
	}
	return f.limit
}

// withBBS runs a command with a connection to the BBS.
func (a *app) withBBS(run func(ctx context.Context, conn grpc.ClientConnInterface, args []string) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		conn, err := a.flags.dialBBS()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // nothing is pending
		return run(command.Context(), conn, args)
	}
}

// list reads a list to its end, chunk by chunk. A list may take long, but not pause for longer than a request may take;
// the time that take needs does not count.
func list[T any](ctx context.Context, limit time.Duration, open func(context.Context) (grpc.ServerStreamingClient[T], error), take func(*T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(limit, func() { cancel(errSilent) })
	defer patience.Stop()
	stream, err := open(ctx)
	for err == nil {
		var chunk *T
		if chunk, err = stream.Recv(); err == nil {
			patience.Stop()
			err = take(chunk)
			patience.Reset(limit)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(context.Cause(ctx), errSilent):
		return errSilent
	default:
		return err
	}
}

// follow reads a stream that may pause for as long as it likes.
func follow[T any](stream grpc.ServerStreamingClient[T], err error, take func(*T) error) error {
	for err == nil {
		var message *T
		if message, err = stream.Recv(); err == nil {
			err = take(message)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
