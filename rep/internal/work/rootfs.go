package work

import (
	"slices"
	"strings"

	workloadv1 "diego.internal/proto/workload/v1"
)

// SchemePreloaded is the scheme of root filesystems that the cell has on its disk.
const SchemePreloaded = "preloaded"

// Providers describes for the auction which root filesystems the cell can make: those on its disk, and all of the schemes.
func Providers(preloaded, schemes []string) []*workloadv1.RootFSProvider {
	names := slices.Sorted(slices.Values(preloaded))
	out := []*workloadv1.RootFSProvider{{Scheme: SchemePreloaded, FixedSet: true, Names: names}}
	for _, scheme := range schemes {
		out = append(out, &workloadv1.RootFSProvider{Scheme: scheme})
	}
	return out
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
