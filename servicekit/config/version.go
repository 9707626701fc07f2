package config

import "runtime/debug"

// Version is the version of the product, set when a release is built with
// -ldflags "-X diego.internal/servicekit/config.Version=v1.2.3".
var Version string //nolint:gochecknoglobals // the linker sets it

// BuildVersion returns Version and the commit of the build, as far as they are known. Without
// Version it is the version of the main module, or "devel".
func BuildVersion() string {
	version, commit, modified := Version, "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if version == "" && info.Main.Version != "(devel)" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = "+" + s.Value[:min(12, len(s.Value))]
			case "vcs.modified":
				if s.Value == "true" {
					modified = ".modified"
				}
			}
		}
	}
	if version == "" {
		version = "devel"
	}
	return version + commit + modified
}
