package reference

import driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"

type networkDriver struct {
	driverv1.UnimplementedNetworkDriverServiceServer
	*driver
}

func networkCapabilities() *driverv1.NetworkCapabilities { return &driverv1.NetworkCapabilities{} }
