package grpcserver

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// countingConn counts what is written to the network.
type countingConn struct {
	net.Conn
	writes int
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes++
	return c.Conn.Write(b)
}

func TestRecordsOfOneWriteGoTogether(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	source := func(role string) *mtls.Source {
		s, err := mtls.Load(ca.Issue(mtls.Identity{TrustDomain: "test", Role: role}))
		require.NoError(t, err)
		return s
	}
	near, far := net.Pipe()
	client := tls.Client(far, source(mtls.RoleOperator).ClientConfig(mtls.Peer{Role: mtls.RoleBBS}))
	counting := &countingConn{Conn: near}
	below := &records{Conn: counting, buffers: &sync.Pool{}}
	server := tls.Server(below, source(mtls.RoleBBS).ServerConfig())
	conn := &gatheredConn{Conn: server, records: below}

	var got bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&got, client)
		read <- err
	}()
	require.NoError(t, server.HandshakeContext(t.Context()))
	var want []byte
	for i, size := range []int{1, maxRecord, maxRecord + 1, 32 << 10, 100, 200 << 10, 0} {
		b := bytes.Repeat([]byte{byte('a' + i)}, size)
		want = append(want, b...)
		for range 20 { // the first records of a connection are shorter
			before := counting.writes
			n, err := conn.Write(b)
			require.NoError(t, err)
			require.Equal(t, size, n)
			if size > maxRecord {
				require.Equal(t, 1, counting.writes-before, "of %d bytes", size)
			}
		}
		want = append(want, bytes.Repeat(b, 19)...)
	}
	require.NoError(t, conn.Close())
	require.NoError(t, <-read)
	require.Equal(t, want, got.Bytes())

	_, err := conn.Write(make([]byte, 32<<10))
	require.Error(t, err, "of a closed connection")
}
