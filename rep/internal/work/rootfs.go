package work

import (
	"slices"
	"strings"

	workloadv1 "diego.internal/proto/workload/v1"
)

// SchemePreloaded is the scheme of root filesystems that the cell has on its disk.
const SchemePreloaded = "preloaded"

// Providers describes for the auction which root filesystems the cell can make.
func Providers(preloaded []string) []*workloadv1.RootFSProvider {
	names := slices.Sorted(slices.Values(preloaded))
	return []*workloadv1.RootFSProvider{{Scheme: SchemePreloaded, FixedSet: true, Names: names}}
}

// Supports says whether one of the providers can make the root filesystem.
func Supports(providers []*workloadv1.RootFSProvider, uri string) bool {
	scheme, name, found := strings.Cut(uri, ":")
	if !found {
		return false
	}
	return slices.ContainsFunc(providers, func(p *workloadv1.RootFSProvider) bool {
		return p.GetScheme() == scheme && (!p.GetFixedSet() || slices.Contains(p.GetNames(), name))
	})
}
