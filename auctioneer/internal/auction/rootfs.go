package auction

import "net/url"

// splitRootFS parses the URL of a root filesystem into scheme and opaque part
// ("preloaded:cflinuxfs4" has the opaque part "cflinuxfs4", "docker:///busybox" has
// none). An unparsable URL, or one without a scheme, matches nothing.
func splitRootFS(rootFS string) (scheme, opaque string, ok bool) {
	u, err := url.Parse(rootFS)
	if err != nil || u.Scheme == "" {
		return "", "", false
	}
	return u.Scheme, u.Opaque, true
}
