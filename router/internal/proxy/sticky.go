package proxy

import (
	"net/http"
)

// cookieInstance carries the instance of a sticky session.
const cookieInstance = "__VCAP_ID__"

// stickyInstance is the instance to which the request's session is bound, empty if it is not. Both cookies are
// needed: the router's one alone would bind clients whose application knows no sessions.
func (p *Proxy) stickyInstance(r *http.Request) string {
	if p.sessionCookie(r.Cookies()) == nil {
		return ""
	}
	c, err := r.Cookie(cookieInstance)
	if err != nil {
		return ""
	}
	return c.Value
}

// stick adds the router's cookie when the application begins a session, and when the instance of an existing
// session is gone and another one has answered.
func (p *Proxy) stick(x *exchange, res *http.Response) {
	set := res.Cookies()
	for _, c := range set {
		if c.Name == cookieInstance {
			return // the application manages it
		}
	}
	id := x.lease.ID()
	session := p.sessionCookie(set)
	moved := x.criteria.Prefer != "" && x.criteria.Prefer != id
	if session == nil && !moved {
		return
	}
	c := &http.Cookie{Name: cookieInstance, Value: id, Path: "/", HttpOnly: true} //nolint:gosec // it holds no secret, and its attributes follow those of the session
	if session != nil {
		// It must be sent exactly when the session's own cookie is, and end with it.
		c.Path, c.Domain, c.Expires, c.MaxAge = session.Path, session.Domain, session.Expires, session.MaxAge
		c.Secure, c.SameSite, c.Partitioned = session.Secure, session.SameSite, session.Partitioned
		if c.Path == "" {
			c.Path = "/"
		}
	}
	if v := c.String(); v != "" {
		res.Header.Add("Set-Cookie", v)
	}
}

func (p *Proxy) sessionCookie(cookies []*http.Cookie) *http.Cookie {
	for _, c := range cookies {
		if p.sticky[c.Name] {
			return c
		}
	}
	return nil
}
