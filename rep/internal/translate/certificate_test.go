package translate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	workloadv1 "diego.internal/proto/workload/v1"
)

func TestCertificatePropertiesReachTheContainer(t *testing.T) {
	t.Parallel()
	units := []string{"organization:o", "space:s", "app:a"}
	info, err := containerInfo(&workloadv1.ContainerSpec{
		CertificateProperties: &workloadv1.CertificateProperties{OrganizationalUnit: units},
	})
	require.NoError(t, err)
	if diff := cmp.Diff(units, info.CertificateProperties.OrganizationalUnit); diff != "" {
		t.Errorf("organizational units (-want +got):\n%s", diff)
	}
	info, err = containerInfo(&workloadv1.ContainerSpec{})
	require.NoError(t, err)
	require.Empty(t, info.CertificateProperties.OrganizationalUnit)
}
