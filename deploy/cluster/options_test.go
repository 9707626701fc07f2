package cluster

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOptionsNameWhatCannotBeHad(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	port := taken.Addr().(*net.TCPAddr).Port
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"a port that is in use":  {Options{Folder: "f", Bin: "b", RouterPort: port}, "address already in use"},
		"a port that is no port": {Options{Folder: "f", Bin: "b", RouterPort: 70000}, "port of the router"},
		"too many cells":         {Options{Folder: "f", Bin: "b", Cells: 5}, "cells must be from 0 to 4"},
		"no folder":              {Options{Bin: "b"}, "folder and bin"},
	} {
		require.ErrorContains(t, test.options.complete(), test.want, name)
	}
	free := Options{Folder: "f", Bin: "b", Cells: 4}
	require.NoError(t, free.complete())
}
