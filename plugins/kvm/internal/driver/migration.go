package driver

import (
	"context"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// noCapability answers calls that this driver does not advertise.
func noCapability(what string) error {
	return fault.New(metav1.Reason_REASON_NO_CAPABILITY, "this driver does not offer %s", what)
}

// PrepareMigration is not offered.
func (d *Driver) PrepareMigration(context.Context, *driverv1.PrepareMigrationRequest) (*driverv1.PrepareMigrationResponse, error) {
	return nil, noCapability("live migration")
}

// Migrate is not offered.
func (d *Driver) Migrate(*driverv1.MigrateRequest, driverv1.ComputeDriverService_MigrateServer) error {
	return noCapability("live migration")
}

// FinishMigration is not offered.
func (d *Driver) FinishMigration(context.Context, *driverv1.FinishMigrationRequest) (*driverv1.FinishMigrationResponse, error) {
	return nil, noCapability("live migration")
}

// AbortMigration is not offered.
func (d *Driver) AbortMigration(context.Context, *driverv1.AbortMigrationRequest) (*driverv1.AbortMigrationResponse, error) {
	return nil, noCapability("live migration")
}
