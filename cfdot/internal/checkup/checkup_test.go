package checkup

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

func TestCertificate(t *testing.T) {
	t.Parallel()
	source := mtlstest.NewAuthority(t).Source(mtls.Identity{Role: mtls.RoleOperator, Name: "olive"})
	certificate, err := source.ClientConfig(mtls.Peer{Role: mtls.RoleBBS}).GetClientCertificate(nil)
	require.NoError(t, err)
	leaf := certificate.Leaf
	for name, test := range map[string]struct {
		role string
		now  time.Time
		want Status
		says string
	}{
		"long valid":               {mtls.RoleOperator, leaf.NotAfter.Add(-40 * 24 * time.Hour), Failed, "is not valid before"},
		"expires soon":             {mtls.RoleOperator, leaf.NotAfter.Add(-time.Minute), Warning, "0 hours left"},
		"expired":                  {mtls.RoleOperator, leaf.NotAfter.Add(time.Minute), Failed, "expired on"},
		"of another role":          {mtls.RoleBBS, leaf.NotAfter.Add(-time.Minute), Failed, "is not of the role bbs"},
		"of a role that it may be": {"", leaf.NotAfter.Add(-time.Minute), Warning, "operator/olive"},
	} {
		got := Certificate("c", leaf, test.role, test.now)
		require.Equal(t, test.want, got.Status, name)
		require.Contains(t, got.Detail, test.says, name)
		require.NotEmpty(t, got.Advice, name)
	}
	leaf.NotBefore, leaf.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(60*24*time.Hour+time.Minute)
	got := Certificate("c", leaf, mtls.RoleOperator, time.Now())
	require.Equal(t, OK, got.Status)
	require.Contains(t, got.Detail, "60 days left")
	leaf.URIs = nil
	require.Contains(t, Certificate("c", leaf, mtls.RoleOperator, time.Now()).Detail, "names nobody")
}

func TestClocks(t *testing.T) {
	t.Parallel()
	asked := time.Unix(1000, 0)
	clock := func(server string, off time.Duration) Clock {
		return Clock{Server: server, At: asked.Add(off), Asked: asked, Told: asked.Add(100 * time.Millisecond)}
	}
	require.Zero(t, clock("a", 50*time.Millisecond).Skew(), "within the time that asking took")
	require.Equal(t, -time.Second, clock("a", -time.Second).Skew())
	require.Equal(t, time.Second, clock("a", 1100*time.Millisecond).Skew())
	require.Equal(t, OK, Clocks([]Clock{clock("a", 0), clock("b", time.Second)}).Status)
	got := Clocks([]Clock{clock("a", 0), clock("b", 5100*time.Millisecond)})
	require.Equal(t, Result{"clocks", Failed, "differ from this machine: b +5.0s", "check NTP there"}, got)
	require.Contains(t, Clocks([]Clock{clock("a", -time.Minute), clock("b", -time.Minute)}).Advice, "here")
	require.Equal(t, Warning, Clocks(nil).Status)
}

func TestVersions(t *testing.T) {
	t.Parallel()
	require.Equal(t, Result{Check: "versions", Status: OK, Detail: "1.2 on all 2 servers"}, Versions(map[string]string{"a": "1.2", "b": "1.2"}))
	got := Versions(map[string]string{"a": "1.2", "b": "1.3", "c": "1.3", "d": "1.3", "e": "1.3", "f": "1.3", "g": "1.3"})
	require.Equal(t, Warning, got.Status)
	require.Equal(t, "1.2 on a; 1.3 on b, c, d, e, f and 1 more", got.Detail)
	require.Equal(t, Warning, Versions(nil).Status)
}
