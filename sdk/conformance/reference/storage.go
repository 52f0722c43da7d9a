package reference

import driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"

type storageDriver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*driver
}

type networkDriver struct {
	driverv1.UnimplementedNetworkDriverServiceServer
	*driver
}

func storageCapabilities() *driverv1.StorageCapabilities { return &driverv1.StorageCapabilities{} }
func networkCapabilities() *driverv1.NetworkCapabilities { return &driverv1.NetworkCapabilities{} }
