package auction

import "testing"

func TestMatchesRootFS(t *testing.T) {
	t.Parallel()
	p := &Profile{
		ArbitraryRootFS: []string{"docker"},
		FixedRootFS:     map[string][]string{"preloaded": {"cflinuxfs4", "busybox"}, "preloaded+layer": {"cflinuxfs4"}},
	}
	for rootFS, want := range map[string]bool{
		"preloaded:cflinuxfs4": true,
		"preloaded:busybox":    true,
		"PRELOADED:busybox":    true, // a scheme has no case
		"preloaded:Busybox":    false,
		"preloaded:":           false,
		"preloaded":            false,
		"preloaded://busybox":  false, // not opaque
		"preloaded+layer:cflinuxfs4?layer=http://a/b.tgz&x=y": true,
		"preloaded+layer:busybox?layer=http://a/b.tgz":        false,
		"docker:///busybox":                            true,
		"docker://registry.example:5000/org/image#tag": true,
		"oci:///busybox":                               false,
		"":                                             false,
		"::":                                           false,
		"%":                                            false,
		"docker":                                       false,
		"/var/rootfs":                                  false,
	} {
		if got := matchesRootFS(rootFS, p); got != want {
			t.Errorf("matchesRootFS(%q) = %v, want %v", rootFS, got, want)
		}
	}
}
