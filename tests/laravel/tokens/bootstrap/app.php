<?php

// Tokens are those of the model beside the application or, if the environment names a directory of laravel/sanctum in
// SANCTUM_PATH, the package's own.

require '/usr/share/php/Illuminate/autoload.php';
require_once '/usr/share/php/GuzzleHttp/autoload.php';

$package = getenv('SANCTUM_PATH');
$sources = ['App\\' => __DIR__.'/../app/'];
if ($package) {
    $sources['Laravel\\Sanctum\\'] = "$package/src/";
} else {
    require __DIR__.'/../tokens_model/autoload.php';
}
spl_autoload_register(function (string $class) use ($sources) {
    foreach ($sources as $prefix => $directory) {
        $file = $directory.str_replace('\\', '/', substr($class, strlen($prefix))).'.php';
        if (str_starts_with($class, $prefix) && is_file($file)) {
            require $file;
        }
    }
});

/** What creates the table of tokens. */
function tokens_migration(): object
{
    $package = getenv('SANCTUM_PATH');

    return require $package ? glob("$package/database/migrations/*")[0] : base_path('tokens_model/table.php');
}

$app = new Illuminate\Foundation\Application(dirname(__DIR__));
$app->singleton(Illuminate\Contracts\Http\Kernel::class, App\Http\Kernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, App\Exceptions\Handler::class);

return $app;
