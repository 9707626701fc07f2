package grpcserver

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"

	"diego.internal/servicekit/mtls"
)

// refusalLogInterval keeps a peer with a bad certificate, or a port scanner, from flooding the log.
const refusalLogInterval = 10 * time.Second

// serverCredentials are TLS credentials that tell of the connections they refuse; grpc-go does not.
type serverCredentials struct {
	credentials.TransportCredentials
	log     *slog.Logger
	metrics *metrics
	limit   *rate.Sometimes
	buffers *sync.Pool // of records
}

func newCredentials(source *mtls.Source, log *slog.Logger, m *metrics) credentials.TransportCredentials {
	return &serverCredentials{
		TransportCredentials: credentials.NewTLS(source.ServerConfig()),
		log:                  log,
		metrics:              m,
		limit:                &rate.Sometimes{Interval: refusalLogInterval},
		buffers:              &sync.Pool{},
	}
}

func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	below := &records{Conn: raw, buffers: c.buffers}
	conn, info, err := c.TransportCredentials.ServerHandshake(below)
	if err != nil {
		c.metrics.handshakes.Inc()
		c.limit.Do(func() {
			c.log.Warn("handshake-refused", "peer", raw.RemoteAddr().String(), "error", err)
		})
		return nil, nil, err
	}
	return &gatheredConn{Conn: conn, records: below}, info, nil
}

// Clone is called by grpc-go when it copies its options.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	clone.TransportCredentials = c.TransportCredentials.Clone()
	return &clone
}
