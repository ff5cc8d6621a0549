<?php

// `artisan route:cache`, to the file that APP_ROUTES_CACHE names.

$app = require __DIR__.'/bootstrap/app.php';
$app->make(Illuminate\Contracts\Http\Kernel::class)->bootstrap();
$routes = $app['router']->getRoutes();
foreach ($routes as $route) {
    $route->prepareForSerialization();
}
$compiled = var_export($routes->compile(), true);
$file = $app->getCachedRoutesPath();
file_put_contents($file, "<?php app('router')->setCompiledRoutes($compiled);\n");
