package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"diego.internal/servicekit/mtls"
)

// callbackClient makes the connections of completion callbacks. It shows the certificate of this
// process to receivers who ask for one. A receiver is named by a client, so it is verified by its host
// name, against the authorities of the machine and those of the file, which is read for each
// handshake because it may be replaced.
func callbackClient(source *mtls.Source, authorities string) *http.Client {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Verified by VerifyConnection, name and chain, since RootCAs could not follow the file.
		InsecureSkipVerify:   true, //nolint:gosec // see above
		GetClientCertificate: source.ClientConfig(mtls.Peer{}).GetClientCertificate,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyHost(state, authorities)
		},
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: config, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 5 * time.Second,
	}}
}

func verifyHost(state tls.ConnectionState, authorities string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the receiver of the callback has no certificate")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	own, err := os.ReadFile(authorities) //nolint:gosec // the file is configured by the operator
	if err != nil {
		return fmt.Errorf("reading the authorities: %w", err)
	}
	roots.AppendCertsFromPEM(own)
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName: state.ServerName, Roots: roots, Intermediates: intermediates,
	})
	if err != nil {
		return fmt.Errorf("verifying the receiver of the callback: %w", err)
	}
	return nil
}
